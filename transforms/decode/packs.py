"""Packs: encoded records of one bucket and shard, as one value of bytes for a shuffle to carry."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from schemas.fingerprints import Tally
from storage.buckets.id_index import MARK_BYTES, hashes, split

PACK_BYTES = 1024 * 1024
"""Records are packed up to this size: large enough that the shuffle's cost per element does not count."""


@dataclass(frozen=True)
class Pack:
    """marks: the records' marks (`storage.buckets.id_index`); sizes: the records' lengths in bytes; records: one behind
    the other.

    label: what the books count these records under (see `label_of`); received: what the receiver counted, for the books to
    hold against what became of each record; name: 32 hex digits that no other pack has.
    """

    name: str
    label: str
    received: Tally
    marks: bytes
    sizes: tuple[int, ...]
    records: bytes

    _header: ClassVar = struct.Struct(">16sHII4Q")

    @classmethod
    def of(cls, name: str, label: str, marks: list[bytes], records: list[bytes]) -> Pack:
        """A pack of records and, in the same order, their marks. name: 32 hex digits."""
        packed = b"".join(marks)
        return cls(name, label, Tally.of_hashes(hashes(packed)), packed, tuple(map(len, records)), b"".join(records))

    def to_bytes(self) -> bytes:
        label = self.label.encode()
        header = self._header.pack(
            bytes.fromhex(self.name), len(label), len(self.sizes), self.received.count, *self.received.lanes
        )
        sizes = struct.pack(f">{len(self.sizes)}I", *self.sizes)
        return b"".join((header, label, self.marks, sizes, self.records))

    @classmethod
    def from_bytes(cls, data: bytes) -> Pack:
        name, label_size, count, received, *lanes = cls._header.unpack_from(data)
        marks = cls._header.size + label_size
        sizes = marks + MARK_BYTES * count
        records = sizes + 4 * count
        a, b, c, d = lanes
        return cls(
            name.hex(),
            data[cls._header.size : marks].decode(),
            Tally(received, (a, b, c, d)),
            data[marks:sizes],
            struct.unpack_from(f">{count}I", data, sizes),
            data[records:],
        )

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        """Each record's mark and bytes."""
        at = 0
        for mark, size in zip(split(self.marks), self.sizes, strict=True):
            yield mark, self.records[at : at + size]
            at += size


def name_of(pack: bytes) -> str:
    """The name of a pack, from its bytes."""
    return pack[:16].hex()


def label_of(event_type: str, reason: str = "") -> str:
    """The books' line for delivered events of a type, or for its dead letters of one reason."""
    return f"{event_type}\t{reason}"


def read_label(label: str) -> tuple[str, str]:
    """Event type and reason, the latter empty for delivered events."""
    event_type, _, reason = label.rpartition("\t")
    return event_type, reason
