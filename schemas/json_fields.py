"""Checked fields of JSON documents: reports, manifests and committables."""

from __future__ import annotations

MAX_COUNT = 2**48
"""The largest count that a document may state, so that sums of counts fit the 64 bits of a table's columns."""


def read_text(value: object) -> str:
    """Return a string that can be encoded as UTF-8.

    Raises:
        TypeError: The value is no string.
        ValueError: The string contains half of a surrogate pair, as JSON allows.
    """
    if not isinstance(value, str):
        raise TypeError("not a string")
    value.encode()
    return value


def read_count(value: object) -> int:
    """Return an integer from 0 to `MAX_COUNT`; ValueError for any other value."""
    if type(value) is not int or not 0 <= value <= MAX_COUNT:
        raise ValueError(f"not an integer from 0 to {MAX_COUNT}")
    return value


def read_version(value: object) -> int:
    """Return an integer from 1 to `MAX_COUNT`; ValueError for any other value."""
    if read_count(value) < 1:
        raise ValueError("not a version: versions begin with 1")
    return read_count(value)


def read_flag(value: object) -> bool:
    """Return a boolean; TypeError for any other value."""
    if not isinstance(value, bool):
        raise TypeError("neither true nor false")
    return value
