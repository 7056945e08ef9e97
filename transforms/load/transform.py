"""From receipts to table partitions: thin Beam shells around `load`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindows

from schemas.buckets import FIRST_HOUR, Bucket
from schemas.tables import Table
from storage.buckets.manifest import Receipt
from storage.buckets.manifest_store import DAMAGE, finished_receipt
from storage.objects.base import Buckets
from storage.tables.base import NotLoaded, Tables, TablesError
from transforms.load.load import load, not_loaded
from transforms.parallel import SideBySide
from transforms.pubsub.leases import lent
from transforms.windows import Gather, Hourly, at

PAUSE_SECONDS = 300.0
"""Before a streaming engine is told of a load that has failed. It tries again at once and without end, and BigQuery counts the
jobs that fail among a table's 1,500 a day."""

_LOADED, _FAILED = "loaded", "failed"


class LoadTables(beam.PTransform):  # type: ignore[misc]
    """Takes receipts. Gives them on when the table's partition holds what they list. by_stream: tables, which must be there.
    A text in a receipt's place says why there is none that could be loaded.

    A partition that can't be loaded stops no other. A run that ends fails when it has loaded the rest, with one TablesError
    for all of them. Another engine tries each again for as long as it runs, and meanwhile goes on with the others.

    open_hourly: how often a bucket that is open is loaded, where that is less often than it gets receipts: a load takes all of
    its files again. leased: the subscription of a stream whose messages this process has leased. It looks again at what is not
    loaded (`transforms.sweep.transform.WatchHours`), so whatever keeps a partition from being loaded is a trouble that it
    goes on with.
    """

    def __init__(
        self,
        tables: Tables,
        by_stream: Mapping[str, Table],
        buckets: Buckets,
        ends: bool,
        open_hourly: Hourly | None = None,
        leased: str | None = None,
    ) -> None:
        super().__init__()
        self._ends = ends
        self._buckets = buckets
        self._open_hourly = open_hourly
        self._leased = leased
        self._fn = _Load(tables, by_stream, buckets, ends, leased)

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
                >> beam.FlatMap(lambda one: _newest(self._buckets, Bucket.from_key(one[0]), self._leased)).with_output_types(
                    Receipt
                )
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


def _newest(buckets: Buckets, bucket: Bucket, leased: str | None) -> list[Receipt]:
    try:
        return [finished_receipt(buckets, bucket)]
    except DAMAGE as error:
        if not (leases := lent(leased)):
            raise
        leases.troubles.met(_load_of(bucket), f"{bucket.folder}: {error}")
        return []


def _load_of(bucket: Bucket) -> str:
    return f"{bucket.folder}/load"


class _Load(SideBySide):
    def __init__(
        self, tables: Tables, by_stream: Mapping[str, Table], buckets: Buckets, ends: bool, leased: str | None
    ) -> None:
        self._tables = tables
        self._by_stream = by_stream
        self._buckets = buckets
        self._ends = ends
        self._leased = leased

    def bucket_of(self, element: Receipt | str) -> Bucket | None:
        return None if isinstance(element, str) else element.bucket

    def act(self, element: Receipt | str) -> list[Any]:
        if isinstance(element, str):
            return [beam.pvalue.TaggedOutput(_FAILED, at(FIRST_HOUR, element))]
        bucket = element.bucket
        leases = None if self._ends else lent(self._leased)
        try:
            load(self._tables, self._by_stream[bucket.stream], self._buckets, element)
        except (TablesError, *DAMAGE) as failure:
            if leases:
                why = failure if isinstance(failure, TablesError) else f"{bucket.folder}: {failure}"
                leases.troubles.met(_load_of(bucket), str(why))
                return []
            if self._ends and isinstance(failure, NotLoaded):
                return [beam.pvalue.TaggedOutput(_FAILED, at(bucket.hour, str(failure)))]
            raise
        if leases:
            leases.troubles.over(_load_of(bucket))
        return [at(bucket.hour, element)]

    def finish_bundle(self) -> list[Any]:
        try:
            return super().finish_bundle()
        except NotLoaded:
            # Not in the threads: those that wait would keep others from being loaded meanwhile.
            time.sleep(PAUSE_SECONDS)
            raise


def _fail(failures: Iterable[str]) -> None:
    raise not_loaded(list(failures))
