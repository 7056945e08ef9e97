"""Revisit hours, so that buckets without new events are closed and loaded.

The Beam part of `storage.buckets.listing`, which finds the hours. The result is close checks, which the commit step treats as
committables without data.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime, timedelta

import apache_beam as beam
from apache_beam.transforms.periodicsequence import PeriodicImpulse
from apache_beam.utils.timestamp import Timestamp

from schemas.buckets import HOUR, Bucket, hour_of
from schemas.envelope import format_time, parse_time
from storage.buckets.committable import CLOSE_CHECK
from storage.buckets.listing import open_hours
from storage.objects.base import ObjectStore
from transforms.pubsub.leases import leases_for
from transforms.sweep.timer_source import PeriodicSource
from transforms.windows import Gather, in_hour

SWEEP_EVERY = timedelta(minutes=5)
"""How often a stream on one machine sweeps."""
SWEEP_BACK = timedelta(days=1)
"""How far back such a sweep looks. It lists the names of all objects of that time."""


class UnfinishedHours(beam.PTransform):  # type: ignore[misc]
    """Emit the hours in which an earlier run has left a bucket open or not loaded."""

    def __init__(self, store: ObjectStore, streams: Sequence[str], since: datetime) -> None:
        """Look at the hours of `streams` from `since` on."""
        super().__init__()
        self._list = lambda _: [format_time(hour) for hour in open_hours(store, streams, since)]

    def expand(self, begin: beam.Pipeline) -> beam.PCollection:
        return begin | "Begin" >> beam.Create([b""]) | "List buckets" >> beam.FlatMap(self._list).with_output_types(str)


class EachNewHour(beam.PTransform):  # type: ignore[misc]
    """Emit each hour when it begins, starting with the hour of `run_started_at`. Unbounded."""

    def __init__(self, run_started_at: datetime) -> None:
        super().__init__()
        self._first = hour_of(run_started_at)

    def expand(self, begin: beam.Pipeline) -> beam.PCollection:
        first = Timestamp.of(self._first.timestamp())
        ticks = begin | "Tick" >> PeriodicImpulse(first, fire_interval=HOUR.total_seconds())
        return ticks | "Hour" >> beam.Map(lambda _, moment=beam.DoFn.TimestampParam: _hour_text(moment)).with_output_types(str)


class SweepPeriodically(beam.PTransform):  # type: ignore[misc]
    """Emit the hours to sweep, while a stream on one machine has leases on its subscription.

    The first sweep emits the current hour, and all hours from `since` on with unfinished buckets. Later sweeps emit each hour
    when it begins, the hours with unresolved failures, and the unfinished hours of the last day. So a bucket that could not be
    committed or loaded is retried without a restart.
    """

    def __init__(
        self, store: ObjectStore, streams: Sequence[str], since: datetime, run_started_at: datetime, subscription: str
    ) -> None:
        """Configure the sweeps. Ticks are at whole multiples of SWEEP_EVERY within the hour."""
        super().__init__()
        first = hour_of(run_started_at) + (run_started_at - hour_of(run_started_at)) // SWEEP_EVERY * SWEEP_EVERY
        self._ticks = PeriodicSource(subscription, first, SWEEP_EVERY)

        def sweep(_: bytes, moment: Timestamp = beam.DoFn.TimestampParam) -> list[str]:
            tick = moment.to_utc_datetime(has_tz=True)
            if tick == first:
                return sorted(map(format_time, open_hours(store, streams, since) | {hour_of(first)}))
            leases = leases_for(subscription)
            failed = leases.failures.hours() if leases else set()
            return sorted(map(format_time, hours_to_sweep(tick, store, streams) | failed))

        self._sweep = sweep

    def expand(self, begin: beam.Pipeline) -> beam.PCollection:
        return begin | "Tick" >> beam.io.Read(self._ticks) | "List buckets" >> beam.FlatMap(self._sweep).with_output_types(str)


def hours_to_sweep(tick: datetime, store: ObjectStore, streams: Sequence[str]) -> set[datetime]:
    """Return the hours to sweep at a tick.

    These are the hour that begins at the tick, if one does, and the hours of the last day that ended at least SWEEP_EVERY
    before the tick and have buckets that are open or not loaded.
    """
    unfinished = {hour for hour in open_hours(store, streams, tick - SWEEP_BACK) if hour + HOUR + SWEEP_EVERY <= tick}
    return unfinished | {tick} if tick == hour_of(tick) else unfinished


class SweepHours(beam.PTransform):  # type: ignore[misc]
    """Emit close checks for hours.

    Input: hours. Output: a close check of the bucket of each stream in each hour. A bounded run also checks the silent hours
    between those of the input: see `hours_between`.
    """

    def __init__(self, streams: Sequence[str], bounded: bool) -> None:
        """Check the buckets of `streams`. `bounded` is whether the run is bounded."""
        super().__init__()
        self._streams = streams
        self._bounded = bounded

    def expand(self, hours: beam.PCollection) -> beam.PCollection:
        streams = self._streams
        if self._bounded:
            # The silent hours are not determined before the source has ended.
            hours = hours | "At the end" >> Gather() | "Fill" >> beam.FlatMap(_filled).with_output_types(str)
        return hours | "Each stream" >> beam.FlatMap(lambda hour: close_checks(parse_time(hour), streams)).with_output_types(
            tuple[str, bytes]
        )


def _filled(hours: Iterable[str]) -> list[str]:
    return [format_time(hour) for hour in hours_between({parse_time(hour) for hour in hours})]


def _hour_text(moment: Timestamp) -> str:
    return format_time(hour_of(moment.to_utc_datetime(has_tz=True)))


def close_checks(hour: datetime, streams: Iterable[str]) -> Iterator[object]:
    """Return a close check of the bucket of each stream in the hour."""
    return (in_hour((Bucket(stream, hour).key, CLOSE_CHECK.to_json()), hour) for stream in streams)


LONGEST_SILENCE = timedelta(hours=24)
"""Longest time between two hours with events whose silent hours are closed as empty. Those of a longer gap are left alone."""


def hours_between(seen: Collection[datetime]) -> list[datetime]:
    """Return the hours in which a run saw events of any type, and the silent hours between them, in order."""
    hours: list[datetime] = []
    for hour in sorted(seen):
        if hours and hour - hours[-1] <= LONGEST_SILENCE:
            while hours[-1] + HOUR < hour:
                hours.append(hours[-1] + HOUR)
        hours.append(hour)
    return hours
