"""From files to closed hours: thin Beam shells around `commit` and `load`."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from enum import Enum, auto
from typing import Any

import apache_beam as beam
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import TimerSpec, on_timer
from apache_beam.transforms.util import ReshufflePerKey
from apache_beam.transforms.window import GlobalWindows, IntervalWindow
from apache_beam.utils.windowed_value import PaneInfo, PaneInfoTiming

from schemas.buckets import FIRST_HOUR, Bucket
from schemas.receipts import LOOK, Contribution, Receipt, combine
from schemas.tables import Table
from transforms.buckets import Buckets
from transforms.clocks import Clock, new_id, utc_now
from transforms.commit import commit
from transforms.delivered import delivered_of
from transforms.leases import lent
from transforms.load import load, not_loaded
from transforms.looks import Gather
from transforms.tables import NotLoaded, Tables
from transforms.versions import DAMAGE, finished_receipt
from transforms.windows import Hourly, at

AT_ONCE = 8
"""Commits and loads that a worker makes side by side: each is a dozen round trips to a store that has time for many."""

PAUSE_SECONDS = 300.0
"""Before a streaming engine is told of a load that has failed. It tries again at once and without end, and BigQuery counts the
jobs that fail among a table's 1,500 a day."""

_LOADED, _FAILED = "loaded", "failed"

_log = logging.getLogger(__name__)


class CommitBuckets(beam.PTransform):  # type: ignore[misc]
    """Takes contributions by bucket, from several sources by name. Gives each bucket's newest receipt once they are in it.

    closable: a bucket closes when its hour's last pane has come and this clock has passed its end. A drain moves the watermark,
    not the clock; a run that takes what was there when it began must not close what came after.
    subscription: the one whose messages this process has leased (`transforms.leases`): they are acknowledged here.
    In a run that ends, a bucket whose own objects are damaged stops no other: a text that says so comes in its receipt's place.
    """

    def __init__(
        self, buckets: Buckets, closable: Clock, hourly: Hourly, horizon: timedelta, subscription: str | None, ends: bool
    ) -> None:
        super().__init__()
        self._hourly = hourly
        self._fn = _Commit(buckets, closable, horizon, subscription, ends)

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
    """Works on the buckets of a bundle side by side, in threads, and on the elements of one bucket in turn. What `act` gives is
    put out when all are done; the first error is raised then, so that one bucket's trouble keeps no other from being worked on.
    """

    def start_bundle(self) -> None:
        self._waiting: dict[Bucket | None, list[Any]] = {}

    def process(self, element: Any) -> None:
        self._waiting.setdefault(self.bucket_of(element), []).append(element)

    def finish_bundle(self) -> list[Any]:
        with ThreadPoolExecutor(AT_ONCE) as threads:
            futures = [threads.submit(self._in_turn, elements) for elements in self._waiting.values()]
        return [given for future in futures for given in future.result()]

    def _in_turn(self, elements: Iterable[Any]) -> list[Any]:
        return [given for element in elements for given in self.act(element)]

    def bucket_of(self, element: Any) -> Bucket | None:
        """What belongs to one bucket is worked on one after the other."""
        raise NotImplementedError

    def act(self, element: Any) -> list[Any]:
        """Takes an element, gives windowed values, or tagged outputs of such."""
        raise NotImplementedError


class _Commit(_SideBySide):
    def __init__(self, buckets: Buckets, closable: Clock, horizon: timedelta, subscription: str | None, ends: bool) -> None:
        self._buckets = buckets
        self._closable = closable
        self._horizon = horizon
        self._subscription = subscription
        self._ends = ends

    def start_bundle(self) -> None:
        super().start_bundle()
        self._committed: list[str] = []

    def bucket_of(self, element: tuple[str, tuple[bytes, bool]]) -> Bucket:
        return Bucket.from_key(element[0])

    def act(self, element: tuple[str, tuple[bytes, bool]]) -> list[Any]:
        bucket, (data, is_last) = Bucket.from_key(element[0]), element[1]
        close = is_last and bucket.end <= self._closable()
        contribution = Contribution.from_json(data)
        delivered = delivered_of(self._buckets, bucket.stream, self._horizon)
        try:
            # Not closed while something that belongs to it could not be written.
            close = close and not contribution.trouble
            receipts = commit(self._buckets, bucket, contribution, close, utc_now, new_id, delivered)
        except DAMAGE as error:
            if not self._ends:
                raise
            return [at(bucket.hour, f"{bucket.folder}: {error}")]
        self._committed.extend(contribution.packs)
        trouble = [at(bucket.hour, f"{bucket.folder}: {contribution.trouble}")] if contribution.trouble else []
        return trouble + [at(receipt.bucket.hour, receipt) for receipt in receipts if receipt.version]

    def finish_bundle(self) -> list[Any]:
        try:
            return super().finish_bundle()
        finally:
            # All in one go: where Pub/Sub is away, it is waited for once, and not once for each bucket.
            leases = lent(self._subscription) if self._subscription else None
            if leases:
                leases.settle(self._committed)


class LoadTables(beam.PTransform):  # type: ignore[misc]
    """Takes receipts. Gives them on when the table's partition holds what they list. by_stream: tables, which must be there.
    A text in a receipt's place says why there is none that could be loaded.

    A partition that can't be loaded stops no other. A run that ends fails when it has loaded the rest, with one TablesError
    for all of them. Another engine tries each again for as long as it runs, and meanwhile goes on with the others.

    open_hourly: how often a bucket that is open is loaded, where that is less often than it gets receipts: a load takes all of
    its files again. Who gives it looks again at what is not loaded (`transforms.looks.WatchHours`): a failure is only told.
    """

    def __init__(
        self, tables: Tables, by_stream: Mapping[str, Table], buckets: Buckets, ends: bool, open_hourly: Hourly | None = None
    ) -> None:
        super().__init__()
        self._ends = ends
        self._buckets = buckets
        self._open_hourly = open_hourly
        failing = _Failing.COLLECTED if ends else _Failing.TOLD if open_hourly else _Failing.RAISED
        self._fn = _Load(tables, by_stream, buckets, failing)

    def expand(self, receipts: beam.PCollection) -> beam.PCollection:
        if self._open_hourly:
            closed, opened = receipts | "Is open" >> beam.Partition(lambda receipt, _: int(not receipt.closed), 2)
            newest = (
                opened
                | "Its bucket"
                >> beam.Map(lambda receipt: at(receipt.bucket.hour, (receipt.bucket.key, b""))).with_output_types(
                    tuple[str, bytes]
                )
                | "Open by hour" >> self._open_hourly
                | "Group open" >> beam.GroupByKey()
                | "Newest"
                >> beam.Map(lambda one: finished_receipt(self._buckets, Bucket.from_key(one[0]))).with_output_types(Receipt)
                | "Out of hours" >> beam.WindowInto(GlobalWindows())
            )
            receipts = (closed, newest) | "Open and closed" >> beam.Flatten()
        if not self._ends:
            return receipts | "Load" >> beam.ParDo(self._fn).with_output_types(Receipt)
        loaded = receipts | "Load" >> beam.ParDo(self._fn).with_outputs(_FAILED, main=_LOADED)
        loaded[_LOADED].element_type = Receipt
        loaded[_FAILED].element_type = str
        _ = loaded[_FAILED] | "At the end" >> Gather() | "Fail" >> beam.Map(_fail)
        return loaded[_LOADED]


class _Failing(Enum):
    """What becomes of a failure to load: it is collected until the run ends, raised to an engine that tries again, or told."""

    COLLECTED = auto()
    RAISED = auto()
    TOLD = auto()


class _Load(_SideBySide):
    def __init__(self, tables: Tables, by_stream: Mapping[str, Table], buckets: Buckets, failing: _Failing) -> None:
        self._tables = tables
        self._by_stream = by_stream
        self._buckets = buckets
        self._failing = failing

    def bucket_of(self, element: Receipt | str) -> Bucket | None:
        return None if isinstance(element, str) else element.bucket

    def act(self, element: Receipt | str) -> list[Any]:
        if isinstance(element, str):
            return [beam.pvalue.TaggedOutput(_FAILED, at(FIRST_HOUR, element))]
        hour = element.bucket.hour
        try:
            load(self._tables, self._by_stream[element.bucket.stream], self._buckets, element)
        except NotLoaded as failure:
            if self._failing is _Failing.RAISED:
                raise
            if self._failing is _Failing.TOLD:
                _log.warning("%s. The files are safe, and it is tried again within an hour", failure)
                return []
            return [beam.pvalue.TaggedOutput(_FAILED, at(hour, str(failure)))]
        return [at(hour, element)]

    def finish_bundle(self) -> list[Any]:
        try:
            return super().finish_bundle()
        except NotLoaded:
            # Not in the threads: those that wait would keep others from being loaded meanwhile.
            time.sleep(PAUSE_SECONDS)
            raise


def _fail(failures: Iterable[str]) -> None:
    raise not_loaded(list(failures))
