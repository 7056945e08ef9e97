"""Known ids: a set of marks by hour that can be asked for many ids at a time."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.envelope import micros
from schemas.marks import Found

_HOUR = 3_600_000_000
"""Microseconds."""


class Known:
    """Ids that were delivered, with their times and digests: 28 bytes each."""

    def __init__(self, horizon: timedelta) -> None:
        self._horizon = int(horizon.total_seconds()) * 1_000_000
        self._hours: dict[int, list[_Run]] = {}

    def add(self, hour: datetime, marks: bytes) -> None:
        """Marks of a bucket of that hour."""
        runs = self._hours.setdefault(micros(hour) // _HOUR, [])
        runs.append(_sorted([_run(marks)]))
        # Like carrying in binary addition: of n marks each is moved log(n) times, and there are log(n) runs to search.
        while len(runs) > 1 and len(runs[-2].key) <= 2 * len(runs[-1].key):
            runs[-2:] = [_sorted(runs[-2:])]

    def keep(self, hours: Iterable[datetime]) -> None:
        """Forgets the marks of all other hours."""
        kept = {micros(hour) // _HOUR for hour in hours}
        self._hours = {hour: runs for hour, runs in self._hours.items() if hour in kept}

    def find(self, hour: datetime, marks: bytes) -> Found:
        """Which of the marks, of a bucket of that hour, are of ids that were delivered within the horizon, before or after."""
        asked, own = _run(marks), micros(hour) // _HOUR
        repeated = np.zeros(len(asked.key), bool)
        alike = np.zeros(len(asked.key), bool)
        held = np.full(len(asked.key), own)
        for number, runs in self._hours.items():
            ahead = (number - own) * _HOUR
            if abs(ahead) >= self._horizon + _HOUR:
                continue
            for run in runs:
                for left, at in _matches(run, asked):
                    apart = run.at[at].astype("i8") + ahead - asked.at[left]
                    same = (run.rest[at] == asked.rest[left]) & (np.abs(apart) < self._horizon)
                    settled = repeated[left] & (held[left] == own)
                    held[left] = np.where(same & ~settled, number, held[left])
                    repeated[left] |= same
                    alike[left] |= same & (run.digest[at] == asked.digest[left])
        return Found(repeated, repeated & ~alike, held)


class _Run(NamedTuple):
    """Marks of one hour, column by column: the id's hash in two halves, the microseconds in the hour, the payload's digest."""

    key: NDArray[np.uint64]
    rest: NDArray[np.uint64]
    at: NDArray[np.uint32]
    digest: NDArray[np.uint64]


_COLUMNS = np.dtype([("key", ">u8"), ("rest", ">u8"), ("at", ">u4"), ("digest", ">u8")])
"""A mark (`schemas.marks.MARK`), its id's hash cut in two."""


def _run(marks: bytes) -> _Run:
    packed = np.frombuffer(marks, _COLUMNS)
    key, rest, digest = (packed[name].astype(np.uint64) for name in ("key", "rest", "digest"))
    return _Run(key, rest, packed["at"].astype(np.uint32), digest)


def _sorted(runs: list[_Run]) -> _Run:
    """One run of them all, in the order of its keys."""
    key = np.concatenate([run.key for run in runs])
    order = np.argsort(key, kind="stable")
    rest, digest = np.concatenate([run.rest for run in runs]), np.concatenate([run.digest for run in runs])
    return _Run(key[order], rest[order], np.concatenate([run.at for run in runs])[order], digest[order])


def _matches(run: _Run, asked: _Run) -> Iterable[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Pairs of an asked mark and one of the run with the same key, by their places; many pairs at a time."""
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
