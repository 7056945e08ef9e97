"""Validated fields of our JSON documents"""

from __future__ import annotations

MAX_COUNT = 2**48
"""No report counts more, so that sums of them stay within the 64 bits of a table's columns."""


def read_text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    value.encode()  # half of a surrogate pair, which JSON can carry, is no text: ValueError
    return value


def read_count(value: object) -> int:
    if type(value) is not int or not 0 <= value <= MAX_COUNT:
        raise ValueError("not a count")
    return value


def read_version(value: object) -> int:
    if read_count(value) < 1:
        raise ValueError("versions begin with 1")
    return read_count(value)


def read_flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError("neither true nor false")
    return value
