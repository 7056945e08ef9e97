"""Shards: ranges of id hashes, so that two copies of one event always come to the same place."""

from __future__ import annotations

from dataclasses import dataclass

MAX_SHARDS = 256


@dataclass(frozen=True, order=True)
class Shard:
    """The hashes whose first byte lies in the `index`-th of `count` equal ranges. count: a power of two, 256 at most."""

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.count <= MAX_SHARDS or self.count & (self.count - 1):
            raise ValueError(f"{self.count} shards: a power of two up to {MAX_SHARDS} is needed")
        if not 0 <= self.index < self.count:
            raise ValueError(f"shard {self.index} of {self.count}: there is none")

    @classmethod
    def of(cls, id_hash: bytes, count: int) -> Shard:
        """The shard that holds a hash, out of `count`."""
        return cls(cls.index_of(id_hash, count), count)

    @staticmethod
    def index_of(id_hash: bytes, count: int) -> int:
        """The index of that shard."""
        return id_hash[0] * count // MAX_SHARDS

    def meets(self, other: Shard) -> bool:
        """Whether some hash lies in both, whatever the counts that they were made with."""
        low = self.index * other.count < (other.index + 1) * self.count
        return low and other.index * self.count < (self.index + 1) * other.count

    def __str__(self) -> str:
        return f"{self.index:03d}-of-{self.count:03d}"

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Reads what `str` gave; ValueError otherwise."""
        index, _, count = text.partition("-of-")
        return cls(int(index), int(count))
