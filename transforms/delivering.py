"""From messages to files: thin Beam shells around `receive` and `parts`.

What crosses a shuffle is bytes under a text key. A step's label is part of its contract: a running job is updated by it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Any

import apache_beam as beam
from apache_beam.io.gcp.pubsub import PubsubMessage

from schemas.buckets import Bucket
from schemas.contracts import Contracts
from schemas.envelope import Message, format_time
from schemas.shards import Shard
from transforms.buckets import Buckets
from transforms.clocks import new_id
from transforms.commit import newest_receipt
from transforms.parts import delivered_ids, write_part
from transforms.receive import Packed, Receiver
from transforms.windows import Hourly, at

PACKS, BOOKS, HOURS = "packs", "books", "hours"


class Receive(beam.PTransform):  # type: ignore[misc]
    """Takes PubsubMessages. Gives packs by bucket and shard; by bucket, books of what was received; and the hours met."""

    def __init__(self, contracts: Contracts, allowed_lateness: timedelta, shards: int) -> None:
        super().__init__()
        self._fn = _Receive(contracts, allowed_lateness, shards)

    def expand(self, messages: beam.PCollection) -> Any:
        received = messages | beam.ParDo(self._fn).with_outputs(BOOKS, HOURS, main=PACKS)
        received[PACKS].element_type = tuple[str, bytes]
        received[BOOKS].element_type = tuple[str, bytes]
        received[HOURS].element_type = str
        return received


class _Receive(beam.DoFn):  # type: ignore[misc]
    def __init__(self, contracts: Contracts, allowed_lateness: timedelta, shards: int) -> None:
        self._parameters = (contracts, allowed_lateness, shards)

    def start_bundle(self) -> None:
        self._receiver = Receiver(*self._parameters, new_id)

    def process(self, element: PubsubMessage) -> Iterator[Any]:
        packed = self._receiver.add(Message(element.data, element.attributes, element.message_id, element.publish_time))
        if packed:
            yield _pack(packed)

    def finish_bundle(self) -> Iterator[Any]:
        packs, received = self._receiver.finish()
        yield from map(_pack, packs)
        for bucket, books in received.items():
            yield beam.pvalue.TaggedOutput(BOOKS, at(bucket.hour, (bucket.key, books.to_json())))
        for hour in {bucket.hour for bucket in received}:
            yield beam.pvalue.TaggedOutput(HOURS, at(hour, format_time(hour)))


def _pack(packed: Packed) -> Any:
    return at(packed.bucket.hour, (f"{packed.bucket.key}#{packed.shard}", packed.data))


class WriteParts(beam.PTransform):  # type: ignore[misc]
    """Takes packs. Gives, by bucket, what each pane of a shard contributes: a file in staging, and what became of each record.

    row_schemas: stream -> Avro schema of its rows.
    """

    def __init__(self, buckets: Buckets, row_schemas: Mapping[str, dict[str, Any]], hourly: Hourly) -> None:
        super().__init__()
        self._hourly = hourly
        self._fn = _WriteParts(buckets, row_schemas)

    def expand(self, packs: beam.PCollection) -> beam.PCollection:
        return (
            packs
            | "Packs by hour" >> self._hourly
            | "Group by shard" >> beam.GroupByKey()
            | "Write" >> beam.ParDo(self._fn).with_output_types(tuple[str, bytes])
        )


class _WriteParts(beam.DoFn):  # type: ignore[misc]
    def __init__(self, buckets: Buckets, row_schemas: Mapping[str, dict[str, Any]]) -> None:
        self._buckets = buckets
        self._row_schemas = row_schemas

    def process(self, element: tuple[str, Iterable[bytes]]) -> Iterator[tuple[str, bytes]]:
        key, _, shard_text = element[0].rpartition("#")
        bucket, shard = Bucket.from_key(key), Shard.parse(shard_text)
        delivered = delivered_ids(self._buckets, newest_receipt(self._buckets, bucket), shard)
        schema = self._row_schemas[bucket.stream]
        yield key, write_part(self._buckets, bucket, shard, element[1], schema, delivered, new_id).to_json()
