"""Shards: ranges of id hashes. All copies of an event belong to the same shard."""

from __future__ import annotations

from dataclasses import dataclass

MAX_SHARDS = 256
"""The number of values of a hash's first byte, which decides the shard."""


@dataclass(frozen=True, order=True)
class Shard:
    """The id hashes whose first byte is in one of `count` equal ranges."""

    index: int
    """Number of the range, from 0."""

    count: int
    """A power of two, at most MAX_SHARDS."""

    def __post_init__(self) -> None:
        if not 1 <= self.count <= MAX_SHARDS or self.count & (self.count - 1):
            raise ValueError(f"can't make {self.count} shards: the number must be a power of two up to {MAX_SHARDS}")
        if not 0 <= self.index < self.count:
            raise ValueError(f"there is no shard {self.index} of {self.count}: shards are numbered from 0")

    @classmethod
    def of(cls, id_hash: bytes, count: int) -> Shard:
        """Return the shard of a hash if there are `count` shards."""
        return cls(cls.index_of(id_hash, count), count)

    @staticmethod
    def index_of(id_hash: bytes, count: int) -> int:
        """Return the index of the shard of a hash if there are `count` shards."""
        return id_hash[0] * count // MAX_SHARDS

    def overlaps(self, other: Shard) -> bool:
        """Whether a hash can belong to both shards. Their counts may differ."""
        begins_before_end = self.index * other.count < (other.index + 1) * self.count
        return begins_before_end and other.index * self.count < (self.index + 1) * other.count

    def __str__(self) -> str:
        return f"{self.index:03d}-of-{self.count:03d}"

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Parse the result of `str`.

        Raises:
            ValueError: The text has another form.
        """
        index, _, count = text.partition("-of-")
        return cls(int(index), int(count))
