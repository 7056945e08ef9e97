"""Looks: which hours' buckets are to be looked at, though no event may have come for them. Thin Beam shells around `hours`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime, timedelta

import apache_beam as beam
from apache_beam.transforms.periodicsequence import PeriodicImpulse
from apache_beam.utils.timestamp import Timestamp

from schemas.buckets import HOUR, Bucket, hour_of
from schemas.envelope import format_time, parse_time
from storage.buckets.committable import LOOK
from storage.buckets.listing import open_hours
from storage.objects.base import Buckets
from transforms.pubsub.leases import lent
from transforms.sweep.timer_source import Ticks
from transforms.windows import Gather, at

LOOK_EVERY = timedelta(minutes=5)
LOOK_BACK = timedelta(days=1)
"""How often a stream on one machine looks at what is left to do, and how far back: each look lists the names of a day."""


class FindOpenHours(beam.PTransform):  # type: ignore[misc]
    """Gives the hours from `since` on in which an earlier run has left a bucket open, or not loaded."""

    def __init__(self, buckets: Buckets, streams: Sequence[str], since: datetime) -> None:
        super().__init__()
        self._look = lambda _: [format_time(hour) for hour in open_hours(buckets, streams, since)]

    def expand(self, begin: beam.Pipeline) -> beam.PCollection:
        return begin | "Begin" >> beam.Create([b""]) | "List buckets" >> beam.FlatMap(self._look).with_output_types(str)


class PassingHours(beam.PTransform):  # type: ignore[misc]
    """Gives each hour as it begins, from the one that holds `started`, without an end."""

    def __init__(self, started: datetime) -> None:
        super().__init__()
        self._first = hour_of(started)

    def expand(self, begin: beam.Pipeline) -> beam.PCollection:
        first = Timestamp.of(self._first.timestamp())
        ticks = begin | "Tick" >> PeriodicImpulse(first, fire_interval=HOUR.total_seconds())
        return ticks | "Hour" >> beam.Map(lambda _, moment=beam.DoFn.TimestampParam: _hour_text(moment)).with_output_types(str)


class WatchHours(beam.PTransform):  # type: ignore[misc]
    """Gives the hours to look at while a stream's leases last: at first those from `since` on in which something is left to
    do, and the hour that goes on; then each hour as it begins, and again and again those that are in trouble, and those of the
    last day that are over and not done. So what was refused, or could not be loaded, is tried again without a restart.
    """

    def __init__(self, buckets: Buckets, streams: Sequence[str], since: datetime, started: datetime, subscription: str) -> None:
        super().__init__()
        first = hour_of(started) + (started - hour_of(started)) // LOOK_EVERY * LOOK_EVERY
        self._ticks = Ticks(subscription, first, LOOK_EVERY)

        def look(_: bytes, moment: Timestamp = beam.DoFn.TimestampParam) -> list[str]:
            tick = moment.to_utc_datetime(has_tz=True)
            if tick == first:
                return sorted(map(format_time, open_hours(buckets, streams, since) | {hour_of(first)}))
            leases = lent(subscription)
            troubled = leases.troubles.hours() if leases else set()
            return sorted(map(format_time, hours_at(tick, buckets, streams) | troubled))

        self._look = look

    def expand(self, begin: beam.Pipeline) -> beam.PCollection:
        return begin | "Tick" >> beam.io.Read(self._ticks) | "List buckets" >> beam.FlatMap(self._look).with_output_types(str)


def hours_at(tick: datetime, buckets: Buckets, streams: Sequence[str]) -> set[datetime]:
    """What to look at then: the hour that begins, and those of the last day that are long over and not done."""
    left = {hour for hour in open_hours(buckets, streams, tick - LOOK_BACK) if hour + HOUR + LOOK_EVERY <= tick}
    return left | {tick} if tick == hour_of(tick) else left


class LookAtHours(beam.PTransform):  # type: ignore[misc]
    """Takes hours. Gives a look at every stream's bucket in each; in a run that ends, also in the silent ones between."""

    def __init__(self, streams: Sequence[str], ends: bool) -> None:
        super().__init__()
        self._streams = streams
        self._ends = ends

    def expand(self, hours: beam.PCollection) -> beam.PCollection:
        streams = self._streams
        if self._ends:
            # Which hours lie between is known only when the source has ended.
            hours = hours | "At the end" >> Gather() | "Fill" >> beam.FlatMap(_filled).with_output_types(str)
        return hours | "Each stream" >> beam.FlatMap(lambda hour: looks(parse_time(hour), streams)).with_output_types(
            tuple[str, bytes]
        )


def _filled(hours: Iterable[str]) -> list[str]:
    return [format_time(hour) for hour in hours_between({parse_time(hour) for hour in hours})]


def _hour_text(moment: Timestamp) -> str:
    return format_time(hour_of(moment.to_utc_datetime(has_tz=True)))


def looks(hour: datetime, streams: Iterable[str]) -> Iterator[object]:
    """A look at each stream's bucket of the hour."""
    return (at(hour, (Bucket(stream, hour).key, LOOK.to_json())) for stream in streams)


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
