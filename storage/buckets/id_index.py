"""The id index: an entry for each event, which is enough to know the event again without its payload."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.envelope import micros
from schemas.fingerprints import HASH_BYTES

DIGEST_BYTES = 8

INDEX_ENTRY = np.dtype([("id", f"V{HASH_BYTES}"), ("at", ">u4"), ("digest", f"V{DIGEST_BYTES}")])
"""One index entry: the id's hash, the microseconds of received_at since its hour began, and the payload's digest."""

ENTRY_BYTES = INDEX_ENTRY.itemsize


def digest_of(data: bytes) -> bytes:
    """The first 8 bytes of SHA-256 over a payload: tells whether two messages with one id say the same.

    Nobody gains by making two payloads that share a digest: the second is then called a duplicate, as if it were the same.
    """
    return sha256(data).digest()[:DIGEST_BYTES]


index_entry: Callable[[bytes, int, bytes], bytes] = struct.Struct(f">{HASH_BYTES}sI{DIGEST_BYTES}s").pack
"""An entry's bytes, from the id's hash, the microseconds since the hour began (0 to 3,599,999,999), the payload's digest."""


def split(entries: bytes) -> list[bytes]:
    """Packed entries as a list. ValueError when they are no whole number."""
    if len(entries) % ENTRY_BYTES:
        raise ValueError(f"{len(entries)} bytes are no whole number of {ENTRY_BYTES}-byte index entries")
    return [entries[start : start + ENTRY_BYTES] for start in range(0, len(entries), ENTRY_BYTES)]


def hashes(entries: bytes) -> bytes:
    """The id hashes of packed entries, packed. ValueError when they are no whole number."""
    return np.frombuffer(entries, INDEX_ENTRY)["id"].tobytes()


def ordered(entries: bytes) -> bytes:
    """Packed entries in the order of their bytes, and so of their ids."""
    # As strings of a fixed length: numpy cuts zeros off their ends, and puts them back.
    return np.sort(np.frombuffer(entries, f"S{ENTRY_BYTES}")).tobytes()


def same_payload(one: bytes, other: bytes) -> bool:
    """Whether two entries are of the same payload."""
    return one[-DIGEST_BYTES:] == other[-DIGEST_BYTES:]


@dataclass(frozen=True)
class Lookup:
    """What is known of entries, in their order. delivered: the id is, within the horizon; conflicting: and nowhere with
    the same payload; hour: one that holds it, in hours since 1970, its own where that does, or where none does."""

    delivered: NDArray[np.bool_]
    conflicting: NDArray[np.bool_]
    hour: NDArray[np.int64]


_HOUR = 3_600_000_000
"""Microseconds."""


class IdIndex:
    """Ids that were delivered, with their times and digests: 28 bytes each."""

    def __init__(self, horizon: timedelta) -> None:
        self._horizon = int(horizon.total_seconds()) * 1_000_000
        self._hours: dict[int, list[_Run]] = {}

    def add(self, hour: datetime, entries: bytes) -> None:
        """Entries of a bucket of that hour."""
        runs = self._hours.setdefault(micros(hour) // _HOUR, [])
        runs.append(_sorted([_run(entries)]))
        # Like carrying in binary addition: of n entries each is moved log(n) times, and there are log(n) runs to search.
        while len(runs) > 1 and len(runs[-2].key) <= 2 * len(runs[-1].key):
            runs[-2:] = [_sorted(runs[-2:])]

    def keep(self, hours: Iterable[datetime]) -> None:
        """Forgets the entries of all other hours."""
        kept = {micros(hour) // _HOUR for hour in hours}
        self._hours = {hour: runs for hour, runs in self._hours.items() if hour in kept}

    def find(self, hour: datetime, entries: bytes) -> Lookup:
        """Which of the entries of a bucket of that hour are of ids that were delivered within the horizon, before or after."""
        asked, own = _run(entries), micros(hour) // _HOUR
        delivered = np.zeros(len(asked.key), bool)
        alike = np.zeros(len(asked.key), bool)
        found_hour = np.full(len(asked.key), own)
        for number, runs in self._hours.items():
            ahead = (number - own) * _HOUR
            if abs(ahead) >= self._horizon + _HOUR:
                continue
            for run in runs:
                for left, at in _matches(run, asked):
                    apart = run.at[at].astype("i8") + ahead - asked.at[left]
                    same = (run.rest[at] == asked.rest[left]) & (np.abs(apart) < self._horizon)
                    settled = delivered[left] & (found_hour[left] == own)
                    found_hour[left] = np.where(same & ~settled, number, found_hour[left])
                    delivered[left] |= same
                    alike[left] |= same & (run.digest[at] == asked.digest[left])
        return Lookup(delivered, delivered & ~alike, found_hour)


class _Run(NamedTuple):
    """Entries of one hour by column: the id's hash in two halves, the microseconds in the hour, the payload's digest."""

    key: NDArray[np.uint64]
    rest: NDArray[np.uint64]
    at: NDArray[np.uint32]
    digest: NDArray[np.uint64]


_COLUMNS = np.dtype([("key", ">u8"), ("rest", ">u8"), ("at", ">u4"), ("digest", ">u8")])
"""An index entry (INDEX_ENTRY), its id's hash cut in two."""


def _run(entries: bytes) -> _Run:
    packed = np.frombuffer(entries, _COLUMNS)
    key, rest, digest = (packed[name].astype(np.uint64) for name in ("key", "rest", "digest"))
    return _Run(key, rest, packed["at"].astype(np.uint32), digest)


def _sorted(runs: list[_Run]) -> _Run:
    """One run of them all, in the order of its keys."""
    key = np.concatenate([run.key for run in runs])
    order = np.argsort(key, kind="stable")
    rest, digest = np.concatenate([run.rest for run in runs]), np.concatenate([run.digest for run in runs])
    return _Run(key[order], rest[order], np.concatenate([run.at for run in runs])[order], digest[order])


def _matches(run: _Run, asked: _Run) -> Iterable[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Pairs of an asked entry and one of the run with the same key, by their places; many pairs at a time."""
    at = np.searchsorted(run.key, asked.key)
    left = np.arange(len(at))
    while True:
        inside = at < len(run.key)
        left, at = left[inside], at[inside]
        same = run.key[at] == asked.key[left]
        left, at = left[same], at[same]
        if not len(left):
            return
        yield left, at
        at = at + 1
