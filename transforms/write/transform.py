"""From packs to files in staging: thin Beam shells around `stage`.

What crosses a shuffle is bytes under a text key. A step's label is part of its contract: a running job is updated by it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import apache_beam as beam

from schemas.buckets import Bucket
from schemas.shards import Shard
from storage.buckets.committable import Committable
from storage.buckets.manifest_store import DAMAGE
from storage.objects.base import ObjectStore
from transforms.decode.packs import name_of
from transforms.dedup.delivered_index import DeliveredIndexes
from transforms.metrics import BUCKETS_SKIPPED, BYTES_WRITTEN, DATA_FILES_WRITTEN, BundleMetrics
from transforms.pubsub.leases import leases_for
from transforms.windows import HourlyWindows
from transforms.write.stage import stage_records


class WriteDataFiles(beam.PTransform):  # type: ignore[misc]
    """Takes packs. Gives, by bucket, a committable of each pane of a shard: a file in staging, and what became of each record.

    row_schemas: stream -> Avro schema of its rows; horizon: how far back and ahead an id is the same event. A bucket whose own
    objects are damaged, or those of the hours around it, stops no other: in a run that ends its committable says what is wrong,
    and its messages are not acknowledged; where this process has leased the messages of a stream (`leased`: from which
    subscription), they are nacked; another engine tries its packs again.
    """

    def __init__(
        self,
        store: ObjectStore,
        row_schemas: Mapping[str, dict[str, Any]],
        windows: HourlyWindows,
        delivered: DeliveredIndexes,
        ends: bool,
        leased: str | None = None,
    ) -> None:
        super().__init__()
        self._windows = windows
        self._fn = _WriteDataFiles(store, row_schemas, delivered, ends, leased)

    def expand(self, packs: beam.PCollection) -> beam.PCollection:
        return (
            packs
            | "Packs by hour" >> self._windows
            | "Group by shard" >> beam.GroupByKey()
            | "Write" >> beam.ParDo(self._fn).with_output_types(tuple[str, bytes])
        )


class _WriteDataFiles(beam.DoFn):  # type: ignore[misc]
    def __init__(
        self,
        store: ObjectStore,
        row_schemas: Mapping[str, dict[str, Any]],
        delivered: DeliveredIndexes,
        ends: bool,
        leased: str | None,
    ) -> None:
        self._store = store
        self._row_schemas = row_schemas
        self._delivered = delivered
        self._ends = ends
        self._leased = leased

    def start_bundle(self) -> None:
        self._metrics = BundleMetrics()

    def process(self, element: tuple[str, Iterable[bytes]]) -> Iterator[tuple[str, bytes]]:
        key, _, shard_text = element[0].rpartition("#")
        bucket, shard = Bucket.from_key(key), Shard.parse(shard_text)
        schema, index = self._row_schemas[bucket.stream], self._delivered.of(bucket.stream)
        try:
            committable = stage_records(self._store, bucket, shard, element[1], schema, index)
        except DAMAGE as error:
            if not self._ends:
                if not (leases := leases_for(self._leased)):
                    raise
                self._metrics.add(BUCKETS_SKIPPED)
                leases.failures.failed(bucket.folder, f"{bucket.folder}: {error}", blocks_closing=True)
                leases.nack_later(map(name_of, element[1]))
                return
            self._metrics.add(BUCKETS_SKIPPED)
            committable = Committable("", failure=str(error))
        conflicts = committable.conflicts.data_files if committable.conflicts else ()
        for data_file in (*committable.data_files, *conflicts):
            self._metrics.add(DATA_FILES_WRITTEN)
            self._metrics.add(BYTES_WRITTEN, data_file.size)
        yield key, committable.to_json()

    def finish_bundle(self) -> None:
        self._metrics.report()
