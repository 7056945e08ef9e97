"""The tests' clock: every test begins at the same moment, whenever it runs and however long it takes.

It replaces the wall clock in the pipelines and in brokers, in this process and in those that tests start.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo

from schemas.buckets import HOUR, hour_of
from transforms import clocks

BEGIN = datetime(2026, 3, 1, 0, 20, tzinfo=UTC)
"""An awkward moment: the hour before lies in another day and another month, the end of February."""
LAST_HOUR = hour_of(BEGIN) - HOUR
"""The last full hour. It is over, so its buckets close."""


class RunningClock:
    """A clock that starts at BEGIN and advances with the monotonic clock.

    It has the wall clock's methods that pipelines call.
    """

    def __init__(self) -> None:
        self.started = time.monotonic()
        """Monotonic time at BEGIN, in seconds. All processes share the monotonic clock."""

    def restart(self) -> None:
        self.started = time.monotonic()

    def now(self, zone: tzinfo = UTC) -> datetime:
        return (BEGIN + timedelta(seconds=time.monotonic() - self.started)).astimezone(zone)

    def seconds(self) -> float:
        """Return seconds since 1970, as brokers count."""
        return self.now().timestamp()

    def advance(self, seconds: float) -> None:
        """Put the clock forward, for example to the end of leases."""
        self.started -= seconds


CLOCK = RunningClock()


def run_on_clock(module: str) -> list[str]:
    """Return the command that runs a module as `python -m` does, on this clock."""
    code = f"""
import runpy
from tests.support.clock import use_clock
use_clock({CLOCK.started})
runpy.run_module({module!r}, run_name="__main__", alter_sys=True)
"""
    return [sys.executable, "-c", code]


PATIENCE = 120.0
"""Seconds after which a test gives up on a process or an event. Far more than a slow machine takes."""


def eventually(condition: Callable[[], bool], seconds: float = PATIENCE) -> bool:
    """Poll the condition until it holds or the time is up. Returns whether it held."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def use_clock(started: float) -> None:
    """Replace the wall clock of this process's pipelines by one that began at `started`, on the monotonic clock."""
    CLOCK.started = started
    vars(clocks)["datetime"] = CLOCK
