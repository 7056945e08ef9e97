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
from transforms.decode.packs import pack_id_of
from transforms.dedup.delivered_index import DeliveredIndexes
from transforms.metrics import BUCKETS_SKIPPED, BYTES_WRITTEN, DATA_FILES_WRITTEN, BundleMetrics
from transforms.pubsub.leases import leases_for
from transforms.windows import HourlyWindows
from transforms.write.stage import stage_records


class WriteDataFiles(beam.PTransform):  # type: ignore[misc]
    """Write packs to data files in staging.

    Input: packs, by bucket and shard. Output: committables, by bucket: one for each group of packs that Beam emits for a shard
    (a pane).

    A bucket can't be written if its objects, or those of another bucket within the dedup horizon, are damaged. All other
    buckets are written. The packs of the bucket are handled according to the kind of run:

    - bounded: the committable contains the failure, and the messages of the packs are not acknowledged.
    - a stream whose messages this process has leased: the messages of the packs are nacked.
    - any other stream: the step raises the error, so the runner retries the packs.
    """

    def __init__(
        self,
        store: ObjectStore,
        row_schemas: Mapping[str, dict[str, Any]],
        windows: HourlyWindows,
        delivered: DeliveredIndexes,
        bounded: bool,
        leased_subscription: str | None = None,
    ) -> None:
        """Configure the step.

        Args:
            store: Where staging and the buckets are.
            row_schemas: The Avro schema of the rows of each stream.
            windows: How packs are grouped.
            delivered: The delivered ids.
            bounded: Whether the source is bounded.
            leased_subscription: The subscription whose messages this process has leased. None: the runner acknowledges.
        """
        super().__init__()
        self._windows = windows
        self._fn = _WriteDataFiles(store, row_schemas, delivered, bounded, leased_subscription)

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
        bounded: bool,
        leased_subscription: str | None,
    ) -> None:
        self._store = store
        self._row_schemas = row_schemas
        self._delivered = delivered
        self._bounded = bounded
        self._leased_subscription = leased_subscription

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
            if not self._bounded:
                if not (leases := leases_for(self._leased_subscription)):
                    raise
                leases.failures.failed(bucket.folder, f"{bucket.folder}: {error}", blocks_closing=True)
                leases.nack_later(map(pack_id_of, element[1]))
                return
            committable = Committable("", failure=str(error))
        conflicts = committable.conflicts.data_files if committable.conflicts else ()
        for data_file in (*committable.data_files, *conflicts):
            self._metrics.add(DATA_FILES_WRITTEN)
            self._metrics.add(BYTES_WRITTEN, data_file.size)
        yield key, committable.to_json()

    def finish_bundle(self) -> None:
        self._metrics.report()
