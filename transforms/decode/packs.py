"""Packs: encoded records of one bucket and shard, as one value of bytes for a shuffle to carry."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from schemas.fingerprints import Tally
from storage.buckets.id_index import ENTRY_BYTES, hashes, split

PACK_BYTES = 1024 * 1024
"""Records are packed up to this size: large enough that the shuffle's cost per element does not count."""


@dataclass(frozen=True)
class Pack:
    """entries: the records' index entries (`storage.buckets.id_index`); sizes: the records' lengths in bytes; records: one
    behind the other.

    label: what the counters count these records under (see `label_of`); received: what the decoder counted, for the counters to
    hold against what became of each record; name: 32 hex digits that no other pack has.
    """

    name: str
    label: str
    received: Tally
    entries: bytes
    sizes: tuple[int, ...]
    records: bytes

    _header: ClassVar = struct.Struct(">16sHII4Q")

    @classmethod
    def of(cls, name: str, label: str, entries: list[bytes], records: list[bytes]) -> Pack:
        """A pack of records and, in the same order, their index entries. name: 32 hex digits."""
        packed = b"".join(entries)
        return cls(name, label, Tally.of_hashes(hashes(packed)), packed, tuple(map(len, records)), b"".join(records))

    def to_bytes(self) -> bytes:
        label = self.label.encode()
        header = self._header.pack(
            bytes.fromhex(self.name), len(label), len(self.sizes), self.received.count, *self.received.lanes
        )
        sizes = struct.pack(f">{len(self.sizes)}I", *self.sizes)
        return b"".join((header, label, self.entries, sizes, self.records))

    @classmethod
    def from_bytes(cls, data: bytes) -> Pack:
        name, label_size, count, received, *lanes = cls._header.unpack_from(data)
        entries = cls._header.size + label_size
        sizes = entries + ENTRY_BYTES * count
        records = sizes + 4 * count
        a, b, c, d = lanes
        return cls(
            name.hex(),
            data[cls._header.size : entries].decode(),
            Tally(received, (a, b, c, d)),
            data[entries:sizes],
            struct.unpack_from(f">{count}I", data, sizes),
            data[records:],
        )

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        """Each record's index entry and bytes."""
        offset = 0
        for entry, size in zip(split(self.entries), self.sizes, strict=True):
            yield entry, self.records[offset : offset + size]
            offset += size


def name_of(pack: bytes) -> str:
    """The name of a pack, from its bytes."""
    return pack[:16].hex()


def label_of(event_type: str, reason: str = "") -> str:
    """The counters' key for delivered events of a type, or for its dead letters of one reason."""
    return f"{event_type}\t{reason}"


def read_label(label: str) -> tuple[str, str]:
    """Event type and reason, the latter empty for delivered events."""
    event_type, _, reason = label.rpartition("\t")
    return event_type, reason
