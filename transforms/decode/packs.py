"""Packs: the encoded records of one bucket and shard in a single value of bytes, which is cheap to shuffle."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from schemas.fingerprints import Tally
from storage.buckets.id_index import ENTRY_BYTES, hashes, split

PACK_BYTES = 1024 * 1024
"""A pack is full at this size of its records. It is large enough to make the shuffle's cost per element negligible."""


@dataclass(frozen=True)
class Pack:
    """Encoded records with their index entries."""

    id: str
    """Unique: 32 hex digits."""
    count_key: str
    """Event type and reason under which the records are counted: see `count_key_of`."""
    received: Tally
    """The messages that the decoder counted. The counters of their outcomes have to add up to it."""
    entries: bytes
    """Index entries of the records, concatenated: see `storage.buckets.id_index`."""
    sizes: tuple[int, ...]
    """Lengths of the records, in bytes."""
    records: bytes
    """The records, concatenated."""

    _header: ClassVar = struct.Struct(">16sHII4Q")

    @classmethod
    def of(cls, pack_id: str, count_key: str, entries: list[bytes], records: list[bytes]) -> Pack:
        """Return a pack of records.

        Args:
            pack_id: 32 hex digits, unique.
            count_key: See `count_key_of`.
            entries: The index entry of each record.
            records: Encoded records, in the order of their entries.
        """
        packed = b"".join(entries)
        return cls(pack_id, count_key, Tally.of_hashes(hashes(packed)), packed, tuple(map(len, records)), b"".join(records))

    def to_bytes(self) -> bytes:
        """Return the pack as bytes. The id comes first: see `pack_id_of`."""
        count_key = self.count_key.encode()
        header = self._header.pack(
            bytes.fromhex(self.id), len(count_key), len(self.sizes), self.received.count, *self.received.lanes
        )
        sizes = struct.pack(f">{len(self.sizes)}I", *self.sizes)
        return b"".join((header, count_key, self.entries, sizes, self.records))

    @classmethod
    def from_bytes(cls, data: bytes) -> Pack:
        """Return the pack that `to_bytes` has encoded."""
        pack_id, count_key_size, count, received, *lanes = cls._header.unpack_from(data)
        entries = cls._header.size + count_key_size
        sizes = entries + ENTRY_BYTES * count
        records = sizes + 4 * count
        a, b, c, d = lanes
        return cls(
            pack_id.hex(),
            data[cls._header.size : entries].decode(),
            Tally(received, (a, b, c, d)),
            data[entries:sizes],
            struct.unpack_from(f">{count}I", data, sizes),
            data[records:],
        )

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield the index entry and the bytes of each record."""
        offset = 0
        for entry, size in zip(split(self.entries), self.sizes, strict=True):
            yield entry, self.records[offset : offset + size]
            offset += size


def pack_id_of(pack: bytes) -> str:
    """Return the id of an encoded pack, without decoding the rest."""
    return pack[:16].hex()


def count_key_of(event_type: str, reason: str = "") -> str:
    """Return the key under which the events of a type are counted. With a reason: its dead letters of that reason."""
    return f"{event_type}\t{reason}"


def parse_count_key(count_key: str) -> tuple[str, str]:
    """Return the event type and the reason of a count key. The reason is empty unless the records are dead letters."""
    event_type, _, reason = count_key.rpartition("\t")
    return event_type, reason
