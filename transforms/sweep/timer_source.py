"""A source that ticks periodically until the leases of the run are stopped."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from apache_beam import coders
from apache_beam.io.unbounded_source import CheckpointMark, UnboundedReader, UnboundedSource
from apache_beam.utils.timestamp import MAX_TIMESTAMP, Timestamp

from transforms.clocks import utc_now
from transforms.pubsub.leases import Leases, leases_for
from transforms.pubsub.source import WATERMARK_DELAY


class PeriodicSource(UnboundedSource):  # type: ignore[misc]
    """Empty elements at regular times, with these as timestamps, until the leases on a subscription are stopped."""

    def __init__(self, subscription: str, first: datetime, every: timedelta) -> None:
        """Tick at `first` and then `every` so often, while this process has leases on `subscription`."""
        self._subscription = subscription
        self._first = first
        self._every = every

    def split(self, desired_num_splits: int, options: Any = None) -> list[PeriodicSource]:
        return [self]

    def create_reader(self, options: Any, checkpoint_mark: _Checkpoint | None) -> _Reader:
        leases = leases_for(self._subscription)
        if leases is None:
            raise RuntimeError(f"{self._subscription}: this process has no leases on it")
        return _Reader(leases, checkpoint_mark.next_tick if checkpoint_mark else self._first, self._every)

    def get_checkpoint_mark_coder(self) -> coders.Coder:
        return coders.PickleCoder()


@dataclass
class _Checkpoint(CheckpointMark):  # type: ignore[misc]
    next_tick: datetime


class _Reader(UnboundedReader):  # type: ignore[misc]
    def __init__(self, leases: Leases, next_tick: datetime, every: timedelta) -> None:
        self._leases = leases
        self._next_tick = next_tick
        self._every = every

    def start(self) -> bool:
        return self.advance()

    def advance(self) -> bool:
        if self._leases.stopped or self._next_tick > utc_now():
            return False
        self._current = self._next_tick
        self._next_tick += self._every
        return True

    def get_current(self) -> bytes:
        return b""

    def get_current_timestamp(self) -> Timestamp:
        return Timestamp.of(self._current.timestamp())

    def get_watermark(self) -> Timestamp:
        if self._leases.stopped:
            return MAX_TIMESTAMP
        return Timestamp.of(min(self._next_tick, utc_now() - WATERMARK_DELAY).timestamp())

    def get_checkpoint_mark(self) -> CheckpointMark:
        return _Checkpoint(self._next_tick)
