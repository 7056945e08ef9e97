"""Elsewhere: the ids that a bucket dropped because another hour of its stream holds them, for an audit to look after."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.buckets import FIRST_HOUR, HOUR
from schemas.fingerprints import HASH_BYTES

_ENTRY = np.dtype([("id", f"V{HASH_BYTES}"), ("hour", ">i4"), ("held", ">i4")])


@dataclass(frozen=True)
class Elsewhere:
    """A file of entries, sorted and distinct. name: without a folder, unique to the attempt that wrote it; count: of entries;
    crc32c: 0 to 2^32 - 1."""

    name: str
    count: int
    crc32c: int

    def to_json(self) -> dict[str, object]:
        return {"name": self.name, "count": self.count, "crc32c": self.crc32c}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Elsewhere:
        return cls(value["name"], value["count"], value["crc32c"])


def hour_number(hour: datetime) -> int:
    """The hours since 1970, below 0 before it."""
    return (hour - FIRST_HOUR) // HOUR


def entry(id_hash: bytes, hour: datetime, held: int) -> bytes:
    """One entry's bytes. hour: the one that the event was published for; held: the number of the hour that holds the id."""
    return id_hash + hour_number(hour).to_bytes(4, signed=True) + held.to_bytes(4, signed=True)


def packed(entries: Iterable[bytes]) -> tuple[bytes, int]:
    """Entries as the bytes of a file, and how many there are."""
    each = sorted(set(entries))
    return b"".join(each), len(each)


def by_hours(data: bytes) -> dict[tuple[datetime, datetime], NDArray[np.bytes_]]:
    """A file's id hashes, by the hour that they were published for and the one that is to hold them.

    Raises ValueError or OverflowError for what is no such file.
    """
    entries = np.frombuffer(data, _ENTRY)
    found = {}
    for hour, held in {(int(hour), int(held)) for hour, held in zip(entries["hour"], entries["held"], strict=True)}:
        ids = entries["id"][(entries["hour"] == hour) & (entries["held"] == held)]
        found[FIRST_HOUR + hour * HOUR, FIRST_HOUR + held * HOUR] = comparable(ids.tobytes())
    return found


def comparable(hashes: bytes) -> NDArray[np.bytes_]:
    """Packed id hashes as an array that can be sorted and searched."""
    # numpy cuts zeros off the ends of strings when it compares them: of the same length, they are no less different.
    return np.frombuffer(hashes, f"S{HASH_BYTES}")
