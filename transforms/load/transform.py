"""From manifests to table partitions: thin Beam shells around `load`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindows

from schemas.buckets import FIRST_HOUR, Bucket
from schemas.tables import Table
from storage.buckets.manifest import Manifest
from storage.buckets.manifest_store import DAMAGE, finished_receipt
from storage.objects.base import ObjectStore
from storage.tables.base import LoadError, TableStore, TableStoreError
from transforms.load.load import load, not_loaded
from transforms.metrics import LOAD_TIME, LOADS_FAILED, PARTITIONS_LOADED, ROWS_LOADED
from transforms.parallel import ParallelByBucket
from transforms.pubsub.leases import leases_for
from transforms.windows import Gather, HourlyWindows, in_hour

PAUSE_SECONDS = 300.0
"""Before a streaming engine is told of a load that has failed. It tries again at once and without end, and BigQuery counts the
jobs that fail among a table's 1,500 a day."""

_LOADED, _FAILED = "loaded", "failed"


class LoadTables(beam.PTransform):  # type: ignore[misc]
    """Takes manifests. Gives them on when the table's partition holds what they list. by_stream: tables, which must be there.
    A text in a manifest's place says why there is none that could be loaded.

    A partition that can't be loaded stops no other. A run that ends fails when it has loaded the rest, with one TableStoreError
    for all of them. Another engine tries each again for as long as it runs, and meanwhile goes on with the others.

    open_windows: how often a bucket that is open is loaded, where that is less often than it gets manifests: a load takes all
    of its files again. leased_subscription: the subscription of a stream whose messages this process has leased. It looks again
    at what is not loaded (`transforms.sweep.transform.SweepPeriodically`), so whatever keeps a partition from being loaded is a
    failure that is recorded and retried.
    """

    def __init__(
        self,
        tables: TableStore,
        by_stream: Mapping[str, Table],
        store: ObjectStore,
        bounded: bool,
        open_windows: HourlyWindows | None = None,
        leased_subscription: str | None = None,
    ) -> None:
        super().__init__()
        self._bounded = bounded
        self._store = store
        self._open_windows = open_windows
        self._leased_subscription = leased_subscription
        self._fn = _Load(tables, by_stream, store, bounded, leased_subscription)

    def expand(self, manifests: beam.PCollection) -> beam.PCollection:
        if self._open_windows:
            closed, opened = manifests | "Is open" >> beam.Partition(lambda manifest, _: int(not manifest.closed), 2)
            newest = (
                opened
                | "Its bucket"
                >> beam.Map(lambda manifest: in_hour((manifest.bucket.key, b""), manifest.bucket.hour)).with_output_types(
                    tuple[str, bytes]
                )
                | "Open by hour" >> self._open_windows
                | "Group open" >> beam.GroupByKey()
                | "Newest"
                >> beam.FlatMap(
                    lambda group: _newest(self._store, Bucket.from_key(group[0]), self._leased_subscription)
                ).with_output_types(Manifest)
                | "Out of hours" >> beam.WindowInto(GlobalWindows())
            )
            manifests = (closed, newest) | "Open and closed" >> beam.Flatten()
        if not self._bounded:
            return manifests | "Load" >> beam.ParDo(self._fn).with_output_types(Manifest)
        loaded = manifests | "Load" >> beam.ParDo(self._fn).with_outputs(_FAILED, main=_LOADED)
        loaded[_LOADED].element_type = Manifest
        loaded[_FAILED].element_type = str
        _ = loaded[_FAILED] | "At the end" >> Gather() | "Fail" >> beam.Map(_fail)
        return loaded[_LOADED]


def _newest(store: ObjectStore, bucket: Bucket, leased_subscription: str | None) -> list[Manifest]:
    try:
        return [finished_receipt(store, bucket)]
    except DAMAGE as error:
        if not (leases := leases_for(leased_subscription)):
            raise
        leases.failures.failed(_load_of(bucket), f"{bucket.folder}: {error}")
        return []


def _load_of(bucket: Bucket) -> str:
    return f"{bucket.folder}/load"


class _Load(ParallelByBucket):
    def __init__(
        self,
        tables: TableStore,
        by_stream: Mapping[str, Table],
        store: ObjectStore,
        bounded: bool,
        leased_subscription: str | None,
    ) -> None:
        self._tables = tables
        self._by_stream = by_stream
        self._store = store
        self._bounded = bounded
        self._leased_subscription = leased_subscription

    def key_of(self, element: Manifest | str) -> Bucket | None:
        return None if isinstance(element, str) else element.bucket

    def process_one(self, element: Manifest | str) -> list[Any]:
        if isinstance(element, str):
            return [beam.pvalue.TaggedOutput(_FAILED, in_hour(element, FIRST_HOUR))]
        bucket = element.bucket
        leases = None if self._bounded else leases_for(self._leased_subscription)
        begin = time.monotonic()
        try:
            rows = load(self._tables, self._by_stream[bucket.stream], self._store, element)
        except (TableStoreError, *DAMAGE) as failure:
            self.metrics.add(LOADS_FAILED)
            if leases:
                reason = failure if isinstance(failure, TableStoreError) else f"{bucket.folder}: {failure}"
                leases.failures.failed(_load_of(bucket), str(reason))
                return []
            if self._bounded and isinstance(failure, LoadError):
                return [beam.pvalue.TaggedOutput(_FAILED, in_hour(str(failure), bucket.hour))]
            raise
        if running := leases_for(self._leased_subscription):
            running.count_load()
        if leases:
            leases.failures.recovered(_load_of(bucket))
        if rows:
            self.metrics.add(PARTITIONS_LOADED)
            self.metrics.add(ROWS_LOADED, rows)
            self.metrics.observe(LOAD_TIME, (time.monotonic() - begin) * 1000)
        return [in_hour(element, bucket.hour)]

    def finish_bundle(self) -> list[Any]:
        try:
            return super().finish_bundle()
        except LoadError:
            # Not in the threads: those that wait would keep others from being loaded meanwhile.
            time.sleep(PAUSE_SECONDS)
            raise


def _fail(failures: Iterable[str]) -> None:
    raise not_loaded(list(failures))
