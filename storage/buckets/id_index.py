"""Index of event ids: one entry per event, with which a duplicate or a conflict is recognized without the payload."""

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
"""Layout of an entry: the id's hash, the microseconds of received_at since its hour began, and the payload's digest."""

ENTRY_BYTES = INDEX_ENTRY.itemsize


def digest_of(data: bytes) -> bytes:
    """Return the first 8 bytes of the SHA-256 of a payload, for the comparison of messages with the same id.

    A client gains nothing by constructing two payloads with the same digest: the second is a duplicate, as if it were equal.
    """
    return sha256(data).digest()[:DIGEST_BYTES]


index_entry: Callable[[bytes, int, bytes], bytes] = struct.Struct(f">{HASH_BYTES}sI{DIGEST_BYTES}s").pack
"""Pack one entry: the id's hash, the microseconds since the hour began (0 to 3,599,999,999), the payload's digest."""


def split(entries: bytes) -> list[bytes]:
    """Split packed entries into a list. Raise ValueError if the last one is incomplete."""
    if len(entries) % ENTRY_BYTES:
        raise ValueError(f"{len(entries)} bytes are no whole number of {ENTRY_BYTES}-byte index entries")
    return [entries[start : start + ENTRY_BYTES] for start in range(0, len(entries), ENTRY_BYTES)]


def hashes(entries: bytes) -> bytes:
    """Return the id hashes of packed entries, packed. Raise ValueError if the last entry is incomplete."""
    return np.frombuffer(entries, INDEX_ENTRY)["id"].tobytes()


def ordered(entries: bytes) -> bytes:
    """Sort packed entries by their bytes, and thereby by their id hashes."""
    # Sorts strings of a fixed length. numpy ignores zeros at their ends and restores them in the result.
    return np.sort(np.frombuffer(entries, f"S{ENTRY_BYTES}")).tobytes()


def same_payload(left: bytes, right: bytes) -> bool:
    """Return whether two entries have the same payload digest."""
    return left[-DIGEST_BYTES:] == right[-DIGEST_BYTES:]


@dataclass(frozen=True)
class Lookup:
    """Result of a look-up: one value per entry, in the order of the entries."""

    delivered: NDArray[np.bool_]
    """Whether the id was delivered within the horizon."""
    conflicting: NDArray[np.bool_]
    """Whether the id was delivered within the horizon, but never with the same payload."""
    hour: NDArray[np.int64]
    """An hour that contains the id, in hours since 1970: the entry's own if that contains the id, or if no hour does."""


_HOUR = 3_600_000_000
"""Microseconds in an hour."""


class IdIndex:
    """Delivered ids with their times and payload digests. Takes 28 bytes of memory per id."""

    def __init__(self, horizon: timedelta) -> None:
        """Create an empty index.

        Args:
            horizon: Dedup horizon. Two events with the same id are duplicates if their received_at are less than this apart.
        """
        self._horizon = int(horizon.total_seconds()) * 1_000_000
        self._hours: dict[int, list[_Run]] = {}

    def add(self, hour: datetime, entries: bytes) -> None:
        """Add packed entries of a bucket of `hour`."""
        runs = self._hours.setdefault(micros(hour) // _HOUR, [])
        runs.append(_merge([_run(entries)]))
        # Merges like the carries of binary addition: each of n entries moves log(n) times, and log(n) runs are searched.
        while len(runs) > 1 and len(runs[-2].key) <= 2 * len(runs[-1].key):
            runs[-2:] = [_merge(runs[-2:])]

    def keep(self, hours: Iterable[datetime]) -> None:
        """Evict the entries of all hours except `hours`."""
        kept = {micros(hour) // _HOUR for hour in hours}
        self._hours = {hour: runs for hour, runs in self._hours.items() if hour in kept}

    def find(self, hour: datetime, entries: bytes) -> Lookup:
        """Look up packed entries of a bucket of `hour`.

        An id counts as delivered if it was delivered less than the horizon before or after the entry's time.
        """
        queries, own_hour = _run(entries), micros(hour) // _HOUR
        delivered = np.zeros(len(queries.key), bool)
        identical = np.zeros(len(queries.key), bool)
        found_hour = np.full(len(queries.key), own_hour)
        for run_hour, runs in self._hours.items():
            ahead = (run_hour - own_hour) * _HOUR
            if abs(ahead) >= self._horizon + _HOUR:
                continue
            for run in runs:
                for query, match in _matches(run, queries):
                    distance = run.at[match].astype("i8") + ahead - queries.at[query]
                    same_id = (run.rest[match] == queries.rest[query]) & (np.abs(distance) < self._horizon)
                    in_own_hour = delivered[query] & (found_hour[query] == own_hour)
                    found_hour[query] = np.where(same_id & ~in_own_hour, run_hour, found_hour[query])
                    delivered[query] |= same_id
                    identical[query] |= same_id & (run.digest[match] == queries.digest[query])
        return Lookup(delivered, delivered & ~identical, found_hour)


class _Run(NamedTuple):
    """Entries of one hour as columns."""

    key: NDArray[np.uint64]
    """First half of the id's hash."""
    rest: NDArray[np.uint64]
    """Second half of the id's hash."""
    at: NDArray[np.uint32]
    """Microseconds since the hour began."""
    digest: NDArray[np.uint64]
    """Digest of the payload."""


_COLUMNS = np.dtype([("key", ">u8"), ("rest", ">u8"), ("at", ">u4"), ("digest", ">u8")])
"""Layout of an entry (INDEX_ENTRY) with the id's hash in two halves."""


def _run(entries: bytes) -> _Run:
    packed = np.frombuffer(entries, _COLUMNS)
    key, rest, digest = (packed[name].astype(np.uint64) for name in ("key", "rest", "digest"))
    return _Run(key, rest, packed["at"].astype(np.uint32), digest)


def _merge(runs: list[_Run]) -> _Run:
    """Merge runs into one that is sorted by key."""
    key = np.concatenate([run.key for run in runs])
    order = np.argsort(key, kind="stable")
    rest, digest = np.concatenate([run.rest for run in runs]), np.concatenate([run.digest for run in runs])
    return _Run(key[order], rest[order], np.concatenate([run.at for run in runs])[order], digest[order])


def _matches(run: _Run, queries: _Run) -> Iterable[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Yield pairs of positions, in `queries` and in the sorted `run`, with equal keys. Each item has many pairs."""
    match = np.searchsorted(run.key, queries.key)
    query = np.arange(len(match))
    while True:
        inside = match < len(run.key)
        query, match = query[inside], match[inside]
        same_key = run.key[match] == queries.key[query]
        query, match = query[same_key], match[same_key]
        if not len(query):
            return
        yield query, match
        match = match + 1
