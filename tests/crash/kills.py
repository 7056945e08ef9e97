"""Kills: how many fell into each stage, told at the end of the tests."""

from __future__ import annotations

import signal
import threading
from collections import Counter

import pytest

from tests.crash.lane import Ended
from tests.crash.points import ELSEWHERE, STAGES

KILLED = -signal.SIGKILL


class Kills:
    """A count for each stage. For many threads."""

    def __init__(self) -> None:
        self.by_stage: Counter[str] = Counter()
        self._lock = threading.Lock()

    def count(self, ended: Ended, *, by_chance: bool) -> None:
        """Counts how a run ended, which must be well or by a kill."""
        assert ended.status in (0, KILLED), ended.log
        stage = ELSEWHERE if by_chance else ended.told.get("killed")
        if ended.status == KILLED:
            with self._lock:
                self.by_stage[str(stage)] += 1

    def told(self) -> list[str]:
        """A line for each stage."""
        return [f"{self.by_stage[stage]:5} {stage}" for stage in (*STAGES, ELSEWHERE)]


_KILLS = pytest.StashKey[Kills]()


def kills_of(config: pytest.Config) -> Kills:
    """Those of this session."""
    return config.stash.setdefault(_KILLS, Kills())
