"""One process of deliver without a runner: it calls the same steps in turn, and can be killed at any write."""

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
    """A message as Pub/Sub delivers it."""

    data: bytes
    attributes: dict[str, str]
    message_id: str
    publish_time: datetime


@dataclass(frozen=True)
class Staged:
    """The files in staging that are to be committed."""

    committables: dict[Bucket, list[Committable]]
    ids: dict[str, list[str]]
    """Pack name -> ids of its messages."""


class Killed(Exception):
    """The process is killed here."""


class KillableDirectory(Directory):
    """A directory whose process is killed at the n-th write, before or after it takes effect."""

    writes_left: int | None = None
    """Writes until the kill, the fatal one included; None: never."""
    after = False
    """Whether the fatal write takes effect."""

    def _spend(self) -> None:
        if self.writes_left is not None:
            self.writes_left -= 1
            if self.writes_left <= 0:
                raise Killed

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
    """A process of deliver with its memory of its own commits.

    A new one on the same path starts without memory. One on another path to the same folder has a memory of its own.
    """

    def __init__(self, store: KillableDirectory, tables: DuckDBFile, contracts: Contracts, shards: int) -> None:
        self._store, self._tables, self._contracts, self._shards = store, tables, contracts, shards
        self._by_stream = tables_of(contracts)
        self._schemas = {event_type: row_schema(contracts.newest(event_type)) for event_type in contracts.types} | {
            DEAD_LETTERS: dead_letter_schema()
        }
        self.lose_memory()
        for table in self._by_stream.values():
            tables.ensure(table)

    def lose_memory(self) -> None:
        """Drop the cached indexes, as a restart does."""
        self._delivered = DeliveredIndexes(self._store, HORIZON)

    def run(
        self,
        messages: Iterable[envelope.Message],
        now: datetime,
        *,
        sweep_scope: SweepScope = SweepScope.ALL,
        last: bool = True,
    ) -> list[str]:
        """Run all steps and return the ids of the messages that may be acknowledged."""
        manifests, durable = self.commit(self.write(messages, sweep_scope), now, last=last)
        self.load(manifests)
        return durable

    def write(self, messages: Iterable[envelope.Message], sweep_scope: SweepScope = SweepScope.ALL) -> Staged:
        """Decode the messages, stage the new records, and add close checks for the hours of the sweep scope."""
        decoder = Decoder(self._contracts, LATENESS, self._shards, new_id)
        packs = [packed for message in messages if (packed := decoder.add(message))] + decoder.finish()
        by_shard: dict[tuple[Bucket, Shard], list[Packed]] = {}
        for packed in packs:
            by_shard.setdefault((packed.bucket, packed.shard), []).append(packed)
        hours_seen = {packed.bucket.hour for packed in packs}
        if sweep_scope is SweepScope.ALL:
            hours_seen |= open_hours(self._store, list(self._by_stream), OLDEST)
        hours = [] if sweep_scope is SweepScope.NONE else hours_between(hours_seen)
        committables = {Bucket(stream, hour): [CLOSE_CHECK] for hour in hours for stream in self._by_stream}
        for (bucket, shard), packs_of_shard in by_shard.items():
            index = self._delivered.of(bucket.stream)
            data = [packed.data for packed in packs_of_shard]
            committable = stage_records(self._store, bucket, shard, data, self._schemas[bucket.stream], index)
            committables.setdefault(bucket, []).append(committable)
        return Staged(committables, {packed.id: packed.message_ids for packed in packs})

    def commit(self, staged: Staged, now: datetime, *, last: bool = True) -> tuple[list[Manifest], list[str]]:
        """Commit staged files and return the manifests, and the ids of the messages that may be acknowledged.

        Args:
            last: False for an early pane; True if no hour gets further messages, as a drain and the end of a run announce
        """
        step = _Commit(self._store, Fixed(now), self._delivered, None, bounded=True)
        step.start_bundle()
        outputs = [
            output.value
            for bucket, committables in staged.committables.items()
            for output in step.process_one((bucket.key, (combine(committables).to_json(), last)))
        ]
        assert all(isinstance(output, Manifest) for output in outputs), outputs
        return outputs, [message_id for name in step._committed for message_id in staged.ids[name]]

    def load(self, manifests: Iterable[Manifest]) -> None:
        for manifest in manifests:
            load(self._tables, self._by_stream[manifest.bucket.stream], self._store, manifest)
