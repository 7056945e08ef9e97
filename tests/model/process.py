"""One process of deliver, without an engine: the same steps, called one after the other, and stopped at any write."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, BinaryIO

from schemas.buckets import DEAD_LETTERS, Bucket
from schemas.contracts import Contracts
from schemas.receipts import LOOK, combine
from schemas.rows import dead_letter_schema, row_schema
from schemas.shards import Shard
from schemas.tables import tables_of
from transforms.buckets import Stored
from transforms.buckets.directory import Directory
from transforms.clocks import Fixed, new_id
from transforms.closing import _Commit
from transforms.contributing import contribute
from transforms.delivered import delivered_of, forget
from transforms.hours import open_hours
from transforms.load import load
from transforms.receive import Packed, Receiver
from transforms.tables.duckdb_file import DuckDBFile

LATENESS = timedelta(hours=3)
HORIZON = timedelta(hours=2)


@dataclass(frozen=True)
class Message:
    """What Pub/Sub delivers."""

    data: bytes
    attributes: dict[str, str]
    message_id: str
    publish_time: datetime


class Stopped(Exception):
    """The process is killed here."""


class Stopping(Directory):
    """A directory of a process that is killed at its n-th write, before or after it."""

    left: int | None = None
    after = False

    def _spend(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left <= 0:
                raise Stopped

    def _around(self, write: Any, *args: Any) -> Any:
        if not self.after:
            self._spend()
        result = write(*args)
        if self.after:
            self._spend()
        return result

    def write(self, name: str, data: bytes | BinaryIO) -> Stored:
        return self._around(super().write, name, data)

    def create(self, name: str, data: bytes) -> Stored:
        return self._around(super().create, name, data)

    def replace(self, name: str, data: bytes, generation: int) -> Stored:
        return self._around(super().replace, name, data, generation)

    def publish(self, source: str, target: str) -> None:
        self._around(super().publish, source, target)


class Process:
    """Knows what it has committed. Another one on the same folder knows nothing."""

    def __init__(self, buckets: Stopping, tables: DuckDBFile, contracts: Contracts, shards: int) -> None:
        self._buckets, self._tables, self._contracts, self._shards = buckets, tables, contracts, shards
        self._by_stream = tables_of(contracts)
        self._schemas = {kind: row_schema(contracts.newest(kind)) for kind in contracts.types} | {
            DEAD_LETTERS: dead_letter_schema()
        }
        forget(buckets)
        for table in self._by_stream.values():
            tables.ensure(table)

    def run(self, messages: Iterable[Message], now: datetime) -> list[str]:
        """Delivers the messages, as if nothing more were to come, and returns the ids of those that may be acknowledged."""
        receiver = Receiver(self._contracts, LATENESS, self._shards, new_id)
        packs = [packed for message in messages if (packed := receiver.add(message))] + receiver.finish()
        by_shard: dict[tuple[Bucket, Shard], list[Packed]] = {}
        for packed in packs:
            by_shard.setdefault((packed.bucket, packed.shard), []).append(packed)
        work = {
            Bucket(stream, hour): [LOOK]
            for hour in open_hours(self._buckets, list(self._by_stream), datetime(2026, 1, 1, tzinfo=now.tzinfo))
            for stream in self._by_stream
        }
        for (bucket, shard), some in by_shard.items():
            delivered = delivered_of(self._buckets, bucket.stream, HORIZON)
            data = [packed.data for packed in some]
            contribution = contribute(self._buckets, bucket, shard, data, self._schemas[bucket.stream], delivered)
            work.setdefault(bucket, []).append(contribution)
        step = _Commit(self._buckets, Fixed(now), HORIZON, None, ends=True)
        step.start_bundle()
        receipts = [
            given.value
            for bucket, contributions in work.items()
            for given in step.act((bucket.key, (combine(contributions).to_json(), True)))
        ]
        ids = {packed.name: packed.message_ids for packed in packs}
        durable = [one for name in step._committed for one in ids[name]]
        for receipt in receipts:
            load(self._tables, self._by_stream[receipt.bucket.stream], self._buckets, receipt)
        return durable
