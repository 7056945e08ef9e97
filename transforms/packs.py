"""Packs: encoded records of one bucket and shard, as one value of bytes for a shuffle to carry."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from schemas.fingerprints import HASH_BYTES

_HEADER = struct.Struct(">HI")

PACK_BYTES = 1024 * 1024
"""Records are packed up to this size: large enough that the shuffle's cost per element does not count."""


@dataclass(frozen=True)
class Pack:
    """ids: the records' 16-byte hashes; sizes: the records' lengths in bytes; records: one behind the other.

    label: what the books count these records under (see `label_of`).
    """

    label: str
    ids: bytes
    sizes: tuple[int, ...]
    records: bytes

    def to_bytes(self) -> bytes:
        label = self.label.encode()
        sizes = struct.pack(f">{len(self.sizes)}I", *self.sizes)
        return b"".join((_HEADER.pack(len(label), len(self.sizes)), label, self.ids, sizes, self.records))

    @classmethod
    def from_bytes(cls, data: bytes) -> Pack:
        label_size, count = _HEADER.unpack_from(data)
        ids = _HEADER.size + label_size
        sizes = ids + HASH_BYTES * count
        records = sizes + 4 * count
        return cls(
            data[_HEADER.size : ids].decode(), data[ids:sizes], struct.unpack_from(f">{count}I", data, sizes), data[records:]
        )

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        """Each record's hash and bytes."""
        at = 0
        for i, size in enumerate(self.sizes):
            yield self.ids[i * HASH_BYTES : (i + 1) * HASH_BYTES], self.records[at : at + size]
            at += size


def label_of(event_type: str, reason: str = "") -> str:
    """The books' line for delivered events of a type, or for its dead letters of one reason."""
    return f"{event_type}\t{reason}"


def read_label(label: str) -> tuple[str, str]:
    """Event type and reason, the latter empty for delivered events."""
    event_type, _, reason = label.rpartition("\t")
    return event_type, reason
