"""Revisits hours so that buckets without new events are closed and loaded. Thin Beam shells around `listing`."""

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
SWEEP_BACK = timedelta(days=1)
"""How often a stream on one machine sweeps, and how far back: each sweep lists the names of a day."""


class UnfinishedHours(beam.PTransform):  # type: ignore[misc]
    """Gives the hours from `since` on in which an earlier run has left a bucket open, or not loaded."""

    def __init__(self, store: ObjectStore, streams: Sequence[str], since: datetime) -> None:
        super().__init__()
        self._list = lambda _: [format_time(hour) for hour in open_hours(store, streams, since)]

    def expand(self, begin: beam.Pipeline) -> beam.PCollection:
        return begin | "Begin" >> beam.Create([b""]) | "List buckets" >> beam.FlatMap(self._list).with_output_types(str)


class EachNewHour(beam.PTransform):  # type: ignore[misc]
    """Gives each hour as it begins, from the one that holds `run_started_at`, without an end."""

    def __init__(self, run_started_at: datetime) -> None:
        super().__init__()
        self._first = hour_of(run_started_at)

    def expand(self, begin: beam.Pipeline) -> beam.PCollection:
        first = Timestamp.of(self._first.timestamp())
        ticks = begin | "Tick" >> PeriodicImpulse(first, fire_interval=HOUR.total_seconds())
        return ticks | "Hour" >> beam.Map(lambda _, moment=beam.DoFn.TimestampParam: _hour_text(moment)).with_output_types(str)


class SweepPeriodically(beam.PTransform):  # type: ignore[misc]
    """Gives the hours to sweep while a stream's leases last: at first those from `since` on in which something is left to
    do, and the hour that goes on; then each hour as it begins, and again and again those with unresolved failures, and those of
    the last day that are over and not done. So what was refused, or could not be loaded, is tried again without a restart.
    """

    def __init__(
        self, store: ObjectStore, streams: Sequence[str], since: datetime, run_started_at: datetime, subscription: str
    ) -> None:
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
    """The hour that begins at the tick, and those of the last day that are long over and not closed and loaded."""
    unfinished = {hour for hour in open_hours(store, streams, tick - SWEEP_BACK) if hour + HOUR + SWEEP_EVERY <= tick}
    return unfinished | {tick} if tick == hour_of(tick) else unfinished


class SweepHours(beam.PTransform):  # type: ignore[misc]
    """Takes hours. Gives a close check of every stream's bucket in each.

    In a run that ends, the silent hours between them get one too.
    """

    def __init__(self, streams: Sequence[str], ends: bool) -> None:
        super().__init__()
        self._streams = streams
        self._ends = ends

    def expand(self, hours: beam.PCollection) -> beam.PCollection:
        streams = self._streams
        if self._ends:
            # Which hours lie between is known only when the source has ended.
            hours = hours | "At the end" >> Gather() | "Fill" >> beam.FlatMap(_filled).with_output_types(str)
        return hours | "Each stream" >> beam.FlatMap(lambda hour: close_checks(parse_time(hour), streams)).with_output_types(
            tuple[str, bytes]
        )


def _filled(hours: Iterable[str]) -> list[str]:
    return [format_time(hour) for hour in hours_between({parse_time(hour) for hour in hours})]


def _hour_text(moment: Timestamp) -> str:
    return format_time(hour_of(moment.to_utc_datetime(has_tz=True)))


def close_checks(hour: datetime, streams: Iterable[str]) -> Iterator[object]:
    """A close check of each stream's bucket of the hour."""
    return (in_hour((Bucket(stream, hour).key, CLOSE_CHECK.to_json()), hour) for stream in streams)


LONGEST_SILENCE = timedelta(hours=24)
"""Hours without any event, between two with some, are closed as empty; but a gap longer than this parts two stretches."""


def hours_between(seen: Collection[datetime]) -> list[datetime]:
    """The hours in which a run saw events of any type, and the silent ones between them, in order."""
    hours: list[datetime] = []
    for hour in sorted(seen):
        if hours and hour - hours[-1] <= LONGEST_SILENCE:
            while hours[-1] + HOUR < hour:
                hours.append(hours[-1] + HOUR)
        hours.append(hour)
    return hours
