"""Kills: how many fell into each stage of each command, told at the end of the tests."""

from __future__ import annotations

import signal
import threading
from collections import Counter

import pytest

from tests.crash.crash_points import ELSEWHERE, STAGES
from tests.crash.fork_server import Ended

KILLED = -signal.SIGKILL


class Kills:
    """A count for each command and stage. For many threads."""

    def __init__(self) -> None:
        self._numbers: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    def count(self, command: str, ended: Ended) -> None:
        """Counts how a run ended, which must be well or by a kill. Who was killed from outside could not tell where it was."""
        assert ended.status in (0, KILLED), ended.log
        if ended.status == KILLED:
            with self._lock:
                self._numbers[command, str(ended.told.get("killed", ELSEWHERE))] += 1

    def hit(self, command: str, stage: str) -> bool:
        return self._numbers[command, stage] > 0

    def told(self, command: str) -> list[str]:
        """A head and a line for each stage; nothing for a command that was never killed."""
        numbers = {stage: self._numbers[command, stage] for stage in (*STAGES[command], ELSEWHERE)}
        head = f"{sum(numbers.values())} kills of {command}, by the stage that they fell into"
        return [head, *(f"{number:5} {stage}" for stage, number in numbers.items())] if any(numbers.values()) else []


_KILLS = pytest.StashKey[Kills]()


def kills_of(config: pytest.Config) -> Kills:
    """Those of this session."""
    return config.stash.setdefault(_KILLS, Kills())
