"""The Beam part of writing.

Only bytes with a text key cross a shuffle, since Beam encodes other values slowly. The label of a step is part of its contract:
Dataflow updates a running job by the labels.
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
    """Write packs to data files in staging.

    Input: packs, by bucket and shard. Output: committables, by bucket: one of each pane of a shard.

    If objects of a bucket are damaged, or those of a bucket within the dedup horizon, the other buckets are still written. In a
    bounded run the committable of that bucket contains the failure, and its messages are not acknowledged. In a stream whose
    messages this process has leased, they are nacked. Any other engine retries the packs.
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
        """Configure the step.

        Args:
            store: Where staging and the buckets are.
            row_schemas: The Avro schema of the rows of each stream.
            windows: How packs are grouped.
            delivered: The delivered ids.
            ends: Whether the source is bounded.
            leased: The subscription whose messages this process has leased, or None if the engine acknowledges messages.
        """
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
            self._metrics.add(BUCKETS_SKIPPED)
            if not self._ends:
                if not (leases := leases_for(self._leased)):
                    raise
                leases.failures.failed(bucket.folder, f"{bucket.folder}: {error}", blocks_closing=True)
                leases.nack_later(map(name_of, element[1]))
                return
            committable = Committable("", failure=str(error))
        conflicts = committable.conflicts.data_files if committable.conflicts else ()
        for data_file in (*committable.data_files, *conflicts):
            self._metrics.add(DATA_FILES_WRITTEN)
            self._metrics.add(BYTES_WRITTEN, data_file.size)
        yield key, committable.to_json()

    def finish_bundle(self) -> None:
        self._metrics.report()
