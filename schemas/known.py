"""Known ids: a set of marks that can be asked for many ids at a time."""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from schemas.envelope import micros
from schemas.marks import MARK, Found

MERGE_ABOVE = 8
"""So many arrays are searched one after the other before they are made one."""

_HOUR = 3_600_000_000
"""Microseconds."""

_ROW = np.dtype([("key", "u8"), ("rest", "u8"), ("at", "i8"), ("digest", "u8")])
"""An id's hash in two halves, received_at in microseconds since 1970, and the payload's digest."""


class Known:
    """Ids that were delivered, with their times and digests."""

    def __init__(self, horizon: timedelta) -> None:
        self._horizon = int(horizon.total_seconds()) * 1_000_000
        self._arrays: list[NDArray[np.void]] = []

    def add(self, hour: datetime, marks: bytes) -> None:
        """Marks of a bucket of that hour."""
        rows = _rows(hour, marks)
        rows.sort(order="key", kind="stable")
        self._arrays.append(rows)
        if len(self._arrays) > MERGE_ABOVE:
            merged = np.concatenate(self._arrays)
            merged.sort(order="key", kind="stable")
            self._arrays = [merged]

    def find(self, hour: datetime, marks: bytes) -> Found:
        """Which of the marks, of a bucket of that hour, are of ids that were delivered within the horizon, before or after."""
        asked = _rows(hour, marks)
        repeated = np.zeros(len(asked), bool)
        alike = np.zeros(len(asked), bool)
        own = micros(hour) // _HOUR
        held = np.full(len(asked), own)
        for rows in self._arrays:
            at = np.searchsorted(rows["key"], asked["key"])
            left = np.arange(len(asked))
            while True:
                inside = at[left] < len(rows)
                left = left[inside]
                left = left[rows["key"][at[left]] == asked["key"][left]]
                if not len(left):
                    break
                there, here = rows[at[left]], asked[left]
                same = (there["rest"] == here["rest"]) & (np.abs(there["at"] - here["at"]) < self._horizon)
                settled = repeated[left] & (held[left] == own)
                held[left] = np.where(same & ~settled, there["at"] // _HOUR, held[left])
                repeated[left] |= same
                alike[left] |= same & (there["digest"] == here["digest"])
                at[left] += 1
        return Found(repeated, repeated & ~alike, held)


def _rows(hour: datetime, marks: bytes) -> NDArray[np.void]:
    packed = np.frombuffer(marks, MARK)
    rows = np.empty(len(packed), _ROW)
    halves = np.frombuffer(packed["id"].tobytes(), ">u8").reshape(-1, 2)
    rows["key"], rows["rest"] = halves[:, 0], halves[:, 1]
    rows["at"] = packed["at"].astype("i8") + micros(hour)
    rows["digest"] = np.frombuffer(packed["digest"].tobytes(), ">u8")
    return rows
