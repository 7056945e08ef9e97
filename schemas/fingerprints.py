"""Fingerprints: order-free digests of sets of event ids, with equal results in Python, DuckDB's SQL and BigQuery's SQL."""

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
    """Return the first 16 bytes of the SHA-256 of the id in UTF-8.

    Clients choose the ids. With SHA-256 a client can't construct two ids with the same hash, of which one event would be
    dropped as a duplicate of the other. With 128 bits, the probability of an accidental collision among 10^12 ids is 10^-15.
    """
    return sha256(event_id.encode()).digest()[:HASH_BYTES]


@dataclass(frozen=True)
class Tally:
    """Number and fingerprint of a multiset of event ids.

    The sum of two tallies is the tally of the combined multiset. Two different multisets have equal tallies with a probability
    of 2^-128, unless the ids were chosen to collide. In SQL, lane k is SUM(CAST(CONCAT('0x', SUBSTR(hex of SHA-256,
    1 + 8 * k, 8)) AS INT64)), which is exact for up to 2^31 ids.
    """

    count: int = 0

    lanes: tuple[int, int, int, int] = (0, 0, 0, 0)
    """The sums, modulo 2^64, of the four 32-bit words of the id hashes."""

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
        """The four lanes as 64 hexadecimal digits."""
        return "".join(f"{lane:016x}" for lane in self.lanes)

    @classmethod
    def of_hashes(cls, hashes: bytes) -> Tally:
        """Return the tally of concatenated 16-byte hashes.

        Raises:
            ValueError: The length is not a multiple of 16.
        """
        count, rest = divmod(len(hashes), HASH_BYTES)
        if rest:
            raise ValueError(f"{len(hashes)} bytes are not a multiple of the {HASH_BYTES} bytes of a hash")
        words = np.frombuffer(hashes, ">u4").reshape(count, _LANES)
        a, b, c, d = map(int, words.sum(axis=0, dtype=np.uint64))
        return cls(count, (a, b, c, d))

    @classmethod
    def of_ids(cls, ids: Iterable[str]) -> Tally:
        """Return the tally of ids; a repeated id is counted each time."""
        return cls.of_hashes(b"".join(map(id_hash, ids)))

    def to_json(self) -> dict[str, object]:
        """Return the tally as an object for JSON."""
        return {"count": self.count, "fingerprint": self.fingerprint}

    @classmethod
    def from_json(cls, value: object) -> Tally:
        """Parse the result of `to_json`.

        Raises:
            ValueError: The value has another form.
        """
        if not isinstance(value, dict):
            raise ValueError("a tally is an object with count and fingerprint")
        count, text = value.get("count"), value.get("fingerprint")
        if type(count) is not int or count < 0 or not isinstance(text, str) or not _FINGERPRINT.fullmatch(text):
            raise ValueError("a tally has a count of 0 or more and a fingerprint of 64 hexadecimal digits")
        return cls(count, (int(text[:16], 16), int(text[16:32], 16), int(text[32:48], 16), int(text[48:], 16)))


def total(tallies: Iterable[Tally]) -> Tally:
    """Return the sum of tallies."""
    return sum(tallies, Tally())
