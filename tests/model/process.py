"""One process of deliver, without an engine: the same steps, called one after the other, and stopped at any write."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, BinaryIO

from pipelines.graph import SweepScope
from schemas import envelope
from schemas.buckets import DEAD_LETTERS, Bucket
from schemas.registry.contracts import Contracts
from schemas.row_schemas import dead_letter_schema, row_schema
from schemas.shards import Shard
from schemas.tables import tables_of
from storage.buckets.committable import CLOSE_CHECK, Committable, combine
from storage.buckets.listing import open_hours
from storage.buckets.manifest import Manifest
from storage.objects.base import Stored
from storage.objects.local import Directory
from storage.tables.duckdb_file import DuckDBFile
from transforms.clocks import Fixed, new_id
from transforms.commit.transform import _Commit
from transforms.decode.decoder import Decoder, Packed
from transforms.dedup.delivered_index import DeliveredIndexes
from transforms.load.load import load
from transforms.sweep.transform import hours_between
from transforms.write.stage import stage_records

LATENESS = timedelta(hours=3)
HORIZON = timedelta(hours=2)
OLDEST = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Message:
    """What Pub/Sub delivers."""

    data: bytes
    attributes: dict[str, str]
    message_id: str
    publish_time: datetime


@dataclass(frozen=True)
class Written:
    """What lies in staging, to be committed. ids: by pack, whose messages are in it."""

    committables: dict[Bucket, list[Committable]]
    ids: dict[str, list[str]]


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
    """Knows what it has committed. One that is made on the same path anew knows nothing; one on another path to the same folder
    has a memory of its own."""

    def __init__(self, store: Stopping, tables: DuckDBFile, contracts: Contracts, shards: int) -> None:
        self._store, self._tables, self._contracts, self._shards = store, tables, contracts, shards
        self._by_stream = tables_of(contracts)
        self._schemas = {kind: row_schema(contracts.newest(kind)) for kind in contracts.types} | {
            DEAD_LETTERS: dead_letter_schema()
        }
        self.forget()
        for table in self._by_stream.values():
            tables.ensure(table)

    def forget(self) -> None:
        """Drop what this process has cached, as a restart does."""
        self._delivered = DeliveredIndexes(self._store, HORIZON)

    def run(
        self,
        messages: Iterable[envelope.Message],
        now: datetime,
        *,
        sweep_scope: SweepScope = SweepScope.ALL,
        last: bool = True,
    ) -> list[str]:
        """All steps. Returns the ids of the messages that may be acknowledged."""
        manifests, durable = self.commit(self.write(messages, sweep_scope), now, last=last)
        self.load(manifests)
        return durable

    def write(self, messages: Iterable[envelope.Message], sweep_scope: SweepScope = SweepScope.ALL) -> Written:
        """Receives the messages and writes what is new in them to staging; and asks for what is to be looked at."""
        decoder = Decoder(self._contracts, LATENESS, self._shards, new_id)
        packs = [packed for message in messages if (packed := decoder.add(message))] + decoder.finish()
        by_shard: dict[tuple[Bucket, Shard], list[Packed]] = {}
        for packed in packs:
            by_shard.setdefault((packed.bucket, packed.shard), []).append(packed)
        met = {packed.bucket.hour for packed in packs}
        if sweep_scope is SweepScope.ALL:
            met |= open_hours(self._store, list(self._by_stream), OLDEST)
        hours = [] if sweep_scope is SweepScope.NONE else hours_between(met)
        committables = {Bucket(stream, hour): [CLOSE_CHECK] for hour in hours for stream in self._by_stream}
        for (bucket, shard), some in by_shard.items():
            index = self._delivered.of(bucket.stream)
            data = [packed.data for packed in some]
            committable = stage_records(self._store, bucket, shard, data, self._schemas[bucket.stream], index)
            committables.setdefault(bucket, []).append(committable)
        return Written(committables, {packed.name: packed.message_ids for packed in packs})

    def commit(self, written: Written, now: datetime, *, last: bool = True) -> tuple[list[Manifest], list[str]]:
        """last: as if nothing more were to come for any hour, as a drain and the end of a run say; False: an early pane."""
        step = _Commit(self._store, Fixed(now), self._delivered, None, ends=True)
        step.start_bundle()
        given = [
            one.value
            for bucket, committables in written.committables.items()
            for one in step.process_one((bucket.key, (combine(committables).to_json(), last)))
        ]
        assert all(isinstance(one, Manifest) for one in given), given
        return given, [one for name in step._committed for one in written.ids[name]]

    def load(self, manifests: Iterable[Manifest]) -> None:
        for manifest in manifests:
            load(self._tables, self._by_stream[manifest.bucket.stream], self._store, manifest)
