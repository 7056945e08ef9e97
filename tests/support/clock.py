"""The tests' clock: every test begins at the same moment, whenever it runs and however long it takes.

It takes the place of the wall clock in the pipelines and in brokers, in this process and in those that tests start.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo

from schemas.buckets import HOUR, hour_of
from transforms import clocks

BEGIN = datetime(2024, 3, 1, 0, 20, tzinfo=UTC)
"""An awkward moment: the hour before lies in another day and another month, and that day is a leap day."""
LAST_HOUR = hour_of(BEGIN) - HOUR
"""The last full hour: over, so that its buckets close."""


class RunningClock:
    """Starts at BEGIN and advances with the monotonic clock. Has the methods of the wall clock that the pipelines call."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        """Reading of the monotonic clock, which all processes share, at BEGIN."""

    def restart(self) -> None:
        self.started = time.monotonic()

    def now(self, zone: tzinfo = UTC) -> datetime:
        return (BEGIN + timedelta(seconds=time.monotonic() - self.started)).astimezone(zone)

    def seconds(self) -> float:
        """Seconds since 1970, as brokers count."""
        return self.now().timestamp()

    def advance(self, seconds: float) -> None:
        """Let time pass at once, for instance until leases end."""
        self.started -= seconds


CLOCK = RunningClock()

PATIENCE = 120.0
"""Seconds after which a test gives up on a process or an event. Far more than a slow machine takes."""


def eventually(what: Callable[[], bool], seconds: float = PATIENCE) -> bool:
    """Whether it comes true in time."""
    until = time.monotonic() + seconds
    while not what():
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


def use_clock(started: float) -> None:
    """Replace the wall clock of this process's pipelines by one that began at `started`, on the monotonic clock."""
    CLOCK.started = started
    vars(clocks)["datetime"] = CLOCK
