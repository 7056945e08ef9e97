"""From files to closed hours: thin Beam shells around `commit`, `load` and `hours`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import apache_beam as beam
from apache_beam.transforms.periodicsequence import PeriodicImpulse
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.trigger import AccumulationMode, AfterWatermark
from apache_beam.transforms.userstate import TimerSpec, on_timer
from apache_beam.transforms.util import ReshufflePerKey
from apache_beam.transforms.window import GlobalWindows, IntervalWindow
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import PaneInfo, PaneInfoTiming
from google.cloud import pubsub_v1

from schemas.buckets import HOUR, Bucket, hour_of
from schemas.envelope import format_time, parse_time
from schemas.receipts import LOOK, Contribution, Receipt, combine
from schemas.tables import Table
from transforms.buckets import Buckets
from transforms.clocks import Clock, new_id, utc_now
from transforms.commit import commit
from transforms.hours import hours_between, open_hours
from transforms.load import load
from transforms.tables import Tables
from transforms.windows import Hourly, at


class FindOpenHours(beam.PTransform):  # type: ignore[misc]
    """Gives the hours from `since` on in which an earlier run has left a bucket of one of the streams open."""

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


class LookAtHours(beam.PTransform):  # type: ignore[misc]
    """Takes hours. Gives a look at every stream's bucket in each; in a run that ends, also in the silent ones between."""

    def __init__(self, streams: Sequence[str], ends: bool) -> None:
        super().__init__()
        self._streams = streams
        self._ends = ends

    def expand(self, hours: beam.PCollection) -> beam.PCollection:
        streams = self._streams
        if self._ends:
            # All at once, when the source has ended: which hours lie between is known only then.
            at_the_end = beam.WindowInto(
                GlobalWindows(), trigger=AfterWatermark(), accumulation_mode=AccumulationMode.DISCARDING
            )
            keyed = hours | "To one key" >> beam.WithKeys(b"").with_output_types(tuple[bytes, str])
            grouped = keyed | "At the end" >> at_the_end | "Group" >> beam.GroupByKey()
            hours = grouped | "Fill" >> beam.FlatMap(lambda one: _filled(one[1])).with_output_types(str)
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


class CommitBuckets(beam.PTransform):  # type: ignore[misc]
    """Takes contributions by bucket, from several sources by name. Gives each bucket's newest receipt once they are in it.

    closable: a bucket closes when its hour's last pane has come and this clock has passed its end. A drain moves the watermark,
    not the clock; a run that takes what was there when it began must not close what came after.
    """

    def __init__(self, buckets: Buckets, closable: Clock, hourly: Hourly) -> None:
        super().__init__()
        self._hourly = hourly
        self._fn = _Commit(buckets, closable)

    def expand(self, contributions: Mapping[str, beam.PCollection]) -> beam.PCollection:
        return (
            [source | f"{name} by hour" >> self._hourly for name, source in contributions.items()]
            | "Join" >> beam.Flatten()
            | "Group by bucket" >> beam.GroupByKey()
            | "Combine" >> beam.ParDo(_Combine()).with_output_types(tuple[str, tuple[bytes, bool]])
            # Prism can't read what a reshuffle of windows of an hour writes; from here on the key alone says the hour.
            | "Out of hours" >> beam.WindowInto(GlobalWindows())
            # What one commit adds has to be the same at every try of it: a grouping alone does not promise that.
            | "Fix" >> ReshufflePerKey()
            | "Commit" >> beam.ParDo(self._fn).with_output_types(Receipt)
        )


class _Combine(beam.DoFn):  # type: ignore[misc]
    """Makes one contribution of a pane. An hour whose early panes took all there was need not get a pane when it is over (Prism
    gives none that is empty), so after an early pane a timer asks for the last look."""

    END = TimerSpec("end", TimeDomain.WATERMARK)

    def process(
        self,
        element: tuple[str, Iterable[bytes]],
        pane: PaneInfo = beam.DoFn.PaneInfoParam,
        window: IntervalWindow = beam.DoFn.WindowParam,
        end: Any = beam.DoFn.TimerParam(END),  # noqa: B008 - how Beam declares a timer
    ) -> Iterator[tuple[str, tuple[bytes, bool]]]:
        key, contributions = element
        is_last = pane.timing != PaneInfoTiming.EARLY
        if is_last:
            end.clear()
        else:
            end.set(window.end)
        yield key, (combine(map(Contribution.from_json, contributions)).to_json(), is_last)

    @on_timer(END)  # type: ignore[untyped-decorator]
    def look(self, key: str = beam.DoFn.KeyParam) -> Iterator[tuple[str, tuple[bytes, bool]]]:
        yield key, (LOOK.to_json(), True)


class _Commit(beam.DoFn):  # type: ignore[misc]
    def __init__(self, buckets: Buckets, closable: Clock) -> None:
        self._buckets = buckets
        self._closable = closable

    def process(self, element: tuple[str, tuple[bytes, bool]]) -> Iterator[Receipt]:
        bucket, (data, is_last) = Bucket.from_key(element[0]), element[1]
        close = is_last and bucket.end <= self._closable()
        receipt = commit(self._buckets, bucket, Contribution.from_json(data), close, utc_now, new_id)
        if receipt.version:
            yield receipt


class LoadTables(beam.PTransform):  # type: ignore[misc]
    """Takes receipts. Gives them on when the table's partition holds what they list. tables_of: stream -> table."""

    def __init__(self, tables: Tables, tables_of: Mapping[str, Table], buckets: Buckets) -> None:
        super().__init__()
        self._fn = _Load(tables, tables_of, buckets)

    def expand(self, receipts: beam.PCollection) -> beam.PCollection:
        return receipts | "Load" >> beam.ParDo(self._fn).with_output_types(Receipt)


class _Load(beam.DoFn):  # type: ignore[misc]
    def __init__(self, tables: Tables, tables_of: Mapping[str, Table], buckets: Buckets) -> None:
        self._tables = tables
        self._tables_of = tables_of
        self._buckets = buckets

    def setup(self) -> None:
        self._ensured: set[str] = set()

    def process(self, element: Receipt) -> Iterator[Receipt]:
        table = self._tables_of[element.bucket.stream]
        if table.name not in self._ensured:
            self._tables.ensure(table)
            self._ensured.add(table.name)
        load(self._tables, table, self._buckets, element)
        yield element


class Report(beam.PTransform):  # type: ignore[misc]
    """Takes receipts. Tells the audit topic what each says; a report that is sent twice carries the same id."""

    def __init__(self, topic: str) -> None:
        super().__init__()
        self._fn = _Report(topic)

    def expand(self, receipts: beam.PCollection) -> beam.PCollection:
        return receipts | "Publish report" >> beam.ParDo(self._fn).with_output_types(bytes)


class _Report(beam.DoFn):  # type: ignore[misc]
    def __init__(self, topic: str) -> None:
        self._topic = topic

    def setup(self) -> None:
        self._client = pubsub_v1.PublisherClient()

    def start_bundle(self) -> None:
        self._futures: list[pubsub_v1.publisher.futures.Future] = []

    def process(self, element: Receipt) -> None:
        report = element.report()
        self._futures.append(self._client.publish(self._topic, report.to_json(), report="delivered", report_id=report.id))

    def finish_bundle(self) -> None:
        for future in self._futures:
            future.result()

    def teardown(self) -> None:
        self._client.stop()
