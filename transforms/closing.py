"""From files to closed hours: thin Beam shells around `commit`, `load` and `hours`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
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
from google.api_core.exceptions import GoogleAPIError
from google.cloud import pubsub_v1

from schemas.buckets import FIRST_HOUR, HOUR, Bucket, hour_of
from schemas.envelope import format_time, parse_time
from schemas.receipts import LOOK, Contribution, Receipt, combine
from schemas.tables import Table
from transforms.buckets import Buckets
from transforms.clocks import Clock, new_id, utc_now
from transforms.commit import DAMAGE, commit
from transforms.hours import hours_between, open_hours
from transforms.leases import lent
from transforms.load import load, not_loaded
from transforms.pubsub import PubSubError, told
from transforms.tables import NotLoaded, Tables
from transforms.windows import Hourly, at

AT_ONCE = 8
"""Commits and loads that a worker makes side by side: each is a dozen round trips to a store that has time for many."""

PAUSE_SECONDS = 300.0
"""Before a streaming engine is told of a load that has failed. It tries again at once and without end, and BigQuery counts the
jobs that fail among a table's 1,500 a day."""

_LOADED, _FAILED = "loaded", "failed"

REPORT_SECONDS = 60.0
"""How long Pub/Sub may take to accept the reports of a bundle; the client repeats what fails meanwhile."""


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
            hours = hours | "At the end" >> _Gather() | "Fill" >> beam.FlatMap(_filled).with_output_types(str)
        return hours | "Each stream" >> beam.FlatMap(lambda hour: looks(parse_time(hour), streams)).with_output_types(
            tuple[str, bytes]
        )


class _Gather(beam.PTransform):  # type: ignore[misc]
    """Takes texts of a run that ends. Gives all of them at once, when it has taken the last; nothing where there are none."""

    def expand(self, texts: beam.PCollection) -> beam.PCollection:
        at_the_end = beam.WindowInto(GlobalWindows(), trigger=AfterWatermark(), accumulation_mode=AccumulationMode.DISCARDING)
        keyed = texts | "To one key" >> beam.WithKeys(b"").with_output_types(tuple[bytes, str])
        return keyed | "Last" >> at_the_end | "Group" >> beam.GroupByKey() | beam.Values()


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
    subscription: the one whose messages this process has leased (`transforms.leases`): they are acknowledged here.
    In a run that ends, a bucket whose own objects are damaged stops no other: a text that says so comes in its receipt's place.
    """

    def __init__(self, buckets: Buckets, closable: Clock, hourly: Hourly, subscription: str | None, ends: bool) -> None:
        super().__init__()
        self._hourly = hourly
        self._fn = _Commit(buckets, closable, subscription, ends)

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
            | "Commit" >> beam.ParDo(self._fn).with_output_types(Receipt | str)
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


class _SideBySide(beam.DoFn):  # type: ignore[misc]
    """Works on the elements of a bundle side by side, in threads. What `act` gives for one is put out when all are done; the
    first error is raised then, so that one element's trouble does not keep the others from being worked on."""

    def start_bundle(self) -> None:
        self._waiting: list[Any] = []

    def process(self, element: Any) -> None:
        self._waiting.append(element)

    def finish_bundle(self) -> list[Any]:
        with ThreadPoolExecutor(AT_ONCE) as threads:
            futures = [threads.submit(self.act, element) for element in self._waiting]
        return [future.result() for future in futures]

    def act(self, element: Any) -> Any:
        """Takes an element, gives a windowed value or a tagged output of one."""
        raise NotImplementedError


class _Commit(_SideBySide):
    def __init__(self, buckets: Buckets, closable: Clock, subscription: str | None, ends: bool) -> None:
        self._buckets = buckets
        self._closable = closable
        self._subscription = subscription
        self._ends = ends

    def act(self, element: tuple[str, tuple[bytes, bool]]) -> Any:
        bucket, (data, is_last) = Bucket.from_key(element[0]), element[1]
        close = is_last and bucket.end <= self._closable()
        contribution = Contribution.from_json(data)
        try:
            # Not closed while something that belongs to it could not be written.
            close = close and not contribution.trouble
            receipt = commit(self._buckets, bucket, contribution, close, utc_now, new_id)
        except DAMAGE as error:
            if not self._ends:
                raise
            return at(bucket.hour, f"{bucket.folder}: {error}")
        leases = lent(self._subscription) if self._subscription else None
        if leases:
            leases.settle(contribution.packs)
        return at(bucket.hour, f"{bucket.folder}: {contribution.trouble}" if contribution.trouble else receipt)


class LoadTables(beam.PTransform):  # type: ignore[misc]
    """Takes receipts. Gives them on when the table's partition holds what they list. by_stream: tables, which must be there.
    A text in a receipt's place says why there is none that could be loaded.

    A partition that can't be loaded stops no other. A run that ends fails when it has loaded the rest, with one TablesError
    for all of them. Another engine tries each again for as long as it runs, and meanwhile goes on with the others.
    """

    def __init__(self, tables: Tables, by_stream: Mapping[str, Table], buckets: Buckets, ends: bool) -> None:
        super().__init__()
        self._ends = ends
        self._fn = _Load(tables, by_stream, buckets, ends)

    def expand(self, receipts: beam.PCollection) -> beam.PCollection:
        if not self._ends:
            return receipts | "Load" >> beam.ParDo(self._fn).with_output_types(Receipt)
        loaded = receipts | "Load" >> beam.ParDo(self._fn).with_outputs(_FAILED, main=_LOADED)
        loaded[_LOADED].element_type = Receipt
        loaded[_FAILED].element_type = str
        _ = loaded[_FAILED] | "At the end" >> _Gather() | "Fail" >> beam.Map(_fail)
        return loaded[_LOADED]


class _Load(_SideBySide):
    def __init__(self, tables: Tables, by_stream: Mapping[str, Table], buckets: Buckets, ends: bool) -> None:
        self._tables = tables
        self._by_stream = by_stream
        self._buckets = buckets
        self._ends = ends

    def act(self, element: Receipt | str) -> Any:
        if isinstance(element, str):
            return beam.pvalue.TaggedOutput(_FAILED, at(FIRST_HOUR, element))
        hour = element.bucket.hour
        if not element.version:
            return at(hour, element)
        try:
            load(self._tables, self._by_stream[element.bucket.stream], self._buckets, element)
        except NotLoaded as failure:
            if not self._ends:
                time.sleep(PAUSE_SECONDS)
                raise
            return beam.pvalue.TaggedOutput(_FAILED, at(hour, str(failure)))
        return at(hour, element)


def _fail(failures: Iterable[str]) -> None:
    raise not_loaded(list(failures))


class Report(beam.PTransform):  # type: ignore[misc]
    """Takes receipts. Tells the audit topic what each says; a report that is sent twice carries the same id.

    make_client: makes the client in the process that publishes. Raises PubSubError when Pub/Sub does not take a report.
    """

    def __init__(self, topic: str, make_client: Callable[[], pubsub_v1.PublisherClient]) -> None:
        super().__init__()
        self._fn = _Report(topic, make_client)

    def expand(self, receipts: beam.PCollection) -> beam.PCollection:
        return receipts | "Publish report" >> beam.ParDo(self._fn).with_output_types(bytes)


class _Report(beam.DoFn):  # type: ignore[misc]
    def __init__(self, topic: str, make_client: Callable[[], pubsub_v1.PublisherClient]) -> None:
        self._topic = topic
        self._make_client = make_client

    def setup(self) -> None:
        self._client = self._make_client()

    def start_bundle(self) -> None:
        self._futures: list[pubsub_v1.publisher.futures.Future] = []

    def process(self, element: Receipt) -> None:
        report = element.report()
        self._futures.append(self._client.publish(self._topic, report.to_json(), report="delivered", report_id=report.id))

    def finish_bundle(self) -> None:
        until = time.monotonic() + REPORT_SECONDS
        for future in self._futures:
            try:
                future.result(timeout=max(0.0, until - time.monotonic()))
            except TimeoutError:
                raise PubSubError(
                    f"{self._topic}: Pub/Sub took no report for {REPORT_SECONDS:.0f} s. Is it reachable? Run it again."
                ) from None
            except GoogleAPIError as error:
                raise PubSubError(
                    f"{self._topic}: Pub/Sub refused a report: {told(error)}. Mend that, and run it again."
                ) from None

    def teardown(self) -> None:
        self._client.stop()
