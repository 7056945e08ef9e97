"""From the words of a command line to a store."""

from __future__ import annotations

import re

from transforms.buckets import Buckets, BucketsError
from transforms.buckets.directory import Directory

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def open_buckets(uri: str) -> Buckets:
    """The store that `uri` names: gs://bucket[/prefix], or the path of a directory. Reaches for nothing yet.

    Raises BucketsError when it names neither.
    """
    if uri.startswith("gs://"):
        # Only here: whoever works in a directory needn't wait for Google's client to be imported.
        from transforms.buckets.cloud_storage import CloudStorage

        return CloudStorage(uri)
    if not uri or _SCHEME.match(uri):
        raise BucketsError(f"{uri!r} names no buckets: give the path of a directory, or gs://bucket[/prefix]")
    return Directory(uri)
