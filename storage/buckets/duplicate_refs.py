"""Elsewhere: what is dropped because another hour holds it is written down, so that an audit can look after it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from typing import Any

import numpy as np
from fastavro import parse_schema, schemaless_reader
from numpy.typing import NDArray

from schemas.buckets import FIRST_HOUR, HOUR, STAGING, Bucket, hour_of
from schemas.envelope import ENVELOPE_FIELDS
from schemas.fingerprints import HASH_BYTES
from schemas.shards import Shard
from storage.objects.base import ObjectStore, StoreError

# The envelope's fields come first in every event's record, and no more than these is read.
_ENVELOPE: Any = parse_schema({"type": "record", "name": "envelope", "fields": list(ENVELOPE_FIELDS)})


def published_for(record: bytes, own: datetime) -> datetime:
    """The hour that an event was published for: that of its bucket, or an earlier one that it came too late for."""
    row: Any = schemaless_reader(BytesIO(record), _ENVELOPE, None)
    return hour_of(row["skewed_from"] or own)


def write_elsewhere(store: ObjectStore, shard: Shard, unique: str, entries: Iterable[bytes]) -> tuple[Elsewhere, ...]:
    """Stores entries (`storage.buckets.duplicate_refs`) in staging under a name that ends in `unique`; no file
    where there is none."""
    data, count = packed(entries)
    if not count:
        return ()
    name = f"elsewhere-{shard}-{unique}.ids"
    return (Elsewhere(name, count, store.write(f"{STAGING}/{name}", data).crc32c),)


def read_elsewhere(store: ObjectStore, bucket: Bucket, file: Elsewhere) -> dict[tuple[datetime, datetime], NDArray[np.bytes_]]:
    """A committed file's ids, by the hour that they were published for and the one said to hold them. Raises StoreError."""
    name = f"{bucket.folder}/{file.name}"
    data, stored = store.read(name)
    if stored.crc32c != file.crc32c:
        raise StoreError(
            f"{name} is not the file that was committed: its checksum differs from the manifest."
            " What to do: restore it from a copy"
        )
    try:
        return by_hours(data)
    except (ValueError, OverflowError):
        raise StoreError(
            f"{name} can't be read: it contains no ids with their hours. What to do: restore it from a copy"
        ) from None


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
