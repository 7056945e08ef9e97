"""Names of objects: the rules that every store keeps, so that what is written to one can be copied to any other."""

from __future__ import annotations

import re

from storage.objects.base import StoreError

LONGEST_NAME = 1024
"""Bytes of UTF-8: Cloud Storage's limit (cloud.google.com/storage/docs/objects#naming)."""

LONGEST_PART = 255
"""Bytes of UTF-8 between two slashes: the limit of the usual file systems (NAME_MAX of Linux)."""

_UNFIT = re.compile(r"[\\\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def is_name(name: str) -> bool:
    """Whether `name` can name an object: parts joined by slashes, none empty or hidden by a leading dot, no control codes."""
    parts = name.split("/")
    return (
        not _UNFIT.search(name)
        and len(name.encode()) <= LONGEST_NAME
        and all(part and not part.startswith(".") and len(part.encode()) <= LONGEST_PART for part in parts)
    )


def check_name(name: str) -> None:
    """Raises StoreError, saying which names are accepted, when `name` is not one of them."""
    if not is_name(name):
        raise StoreError(
            f"{name!r} can't name an object: give a/b/c, relative to the root, at most {LONGEST_NAME} bytes, without empty"
            " parts, parts that begin with a dot, backslashes or control characters"
        )


def check_prefix(prefix: str) -> None:
    """Raises StoreError when no object's name can begin with `prefix`. The empty prefix is the beginning of every name."""
    if prefix:
        check_name(prefix.removesuffix("/"))
