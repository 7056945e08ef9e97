"""Order-free digests of sets of event ids, computed alike in Python, in DuckDB's SQL and in BigQuery's."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256

import numpy as np

HASH_BYTES = 16
_LANES = 4
_LANE = 1 << 64
_FINGERPRINT = re.compile(rf"[0-9a-f]{{{16 * _LANES}}}")


def id_hash(event_id: str) -> bytes:
    """The first 16 bytes of SHA-256 over the id's UTF-8.

    SHA-256 because ids come from clients: nobody can make two ids that share a hash, and so have one
    event dropped as the other's duplicate. 128 bits: among 10^12 ids a chance meeting has odds of 10^-15.
    """
    return sha256(event_id.encode()).digest()[:HASH_BYTES]


@dataclass(frozen=True)
class Tally:
    """How many ids, and which: their number, and the sums of the four 32-bit words of their hashes, mod 2^64.

    Sums of tallies are tallies of multisets; two multisets that differ have different tallies but for a
    chance of 2^-128 with ids not chosen against it. In SQL a lane is SUM(CAST(CONCAT('0x', SUBSTR(hex of
    SHA-256, 1 + 8 * k, 8)) AS INT64)), exact up to 2^31 ids.
    """

    count: int = 0
    lanes: tuple[int, int, int, int] = (0, 0, 0, 0)

    def __add__(self, other: Tally) -> Tally:
        a, b = self.lanes, other.lanes
        lanes = ((a[0] + b[0]) % _LANE, (a[1] + b[1]) % _LANE, (a[2] + b[2]) % _LANE, (a[3] + b[3]) % _LANE)
        return Tally(self.count + other.count, lanes)

    def __sub__(self, other: Tally) -> Tally:
        a, b = self.lanes, other.lanes
        lanes = ((a[0] - b[0]) % _LANE, (a[1] - b[1]) % _LANE, (a[2] - b[2]) % _LANE, (a[3] - b[3]) % _LANE)
        return Tally(self.count - other.count, lanes)

    @property
    def fingerprint(self) -> str:
        """The four lanes as 64 hex digits."""
        return "".join(f"{lane:016x}" for lane in self.lanes)

    @classmethod
    def of_hashes(cls, hashes: bytes) -> Tally:
        """The tally of packed 16-byte hashes; ValueError when their length is no multiple of 16."""
        count, rest = divmod(len(hashes), HASH_BYTES)
        if rest:
            raise ValueError(f"{len(hashes)} bytes are no whole number of {HASH_BYTES}-byte hashes")
        words = np.frombuffer(hashes, ">u4").reshape(count, _LANES)
        a, b, c, d = map(int, words.sum(axis=0, dtype=np.uint64))
        return cls(count, (a, b, c, d))

    @classmethod
    def of_ids(cls, ids: Iterable[str]) -> Tally:
        """The tally of ids, each as often as it comes."""
        return cls.of_hashes(b"".join(map(id_hash, ids)))

    def to_json(self) -> dict[str, object]:
        return {"count": self.count, "fingerprint": self.fingerprint}

    @classmethod
    def from_json(cls, value: object) -> Tally:
        """Reads what `to_json` gave; ValueError for anything else."""
        if not isinstance(value, dict):
            raise ValueError("a tally is an object with count and fingerprint")
        count, text = value.get("count"), value.get("fingerprint")
        if type(count) is not int or count < 0 or not isinstance(text, str) or not _FINGERPRINT.fullmatch(text):
            raise ValueError("a tally is an object with a whole count and a fingerprint of 64 hex digits")
        return cls(count, (int(text[:16], 16), int(text[16:32], 16), int(text[32:48], 16), int(text[48:], 16)))


def total(tallies: Iterable[Tally]) -> Tally:
    """The sum of tallies."""
    return sum(tallies, Tally())
