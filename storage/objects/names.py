"""Rules for object names that every store enforces, so that the objects of any store can be copied to any other."""

from __future__ import annotations

import re

from storage.objects.base import StoreError

LONGEST_NAME = 1024
"""Bytes of UTF-8: the limit of Cloud Storage (cloud.google.com/storage/docs/objects#naming)."""

LONGEST_PART = 255
"""Bytes of UTF-8 between two slashes: the limit of the usual file systems (NAME_MAX of Linux)."""

_UNFIT = re.compile(r"[\\\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def is_name(name: str) -> bool:
    """Return whether `name` is a valid object name.

    Valid names are parts joined by slashes. A part is not empty, has no leading dot (a hidden file) and contains no
    backslashes, control characters or surrogates.
    """
    parts = name.split("/")
    return (
        not _UNFIT.search(name)
        and len(name.encode()) <= LONGEST_NAME
        and all(part and not part.startswith(".") and len(part.encode()) <= LONGEST_PART for part in parts)
    )


def check_name(name: str) -> None:
    """Raise StoreError with the rules for names if `name` is not a valid object name."""
    if not is_name(name):
        raise StoreError(
            f"{name!r} can't name an object. What to do: give a/b/c, relative to the root, at most {LONGEST_NAME} bytes,"
            " without empty parts, parts that begin with a dot, backslashes or control characters"
        )


def check_prefix(prefix: str) -> None:
    """Raise StoreError if no valid object name can begin with `prefix`. Every name begins with the empty prefix."""
    if prefix:
        check_name(prefix.removesuffix("/"))
