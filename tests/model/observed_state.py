"""The real content of buckets and tables, read again after each step that may have changed it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import duckdb
import fastavro

from schemas.buckets import DEAD_LETTERS, Bucket
from schemas.outcomes import Outcome
from storage.buckets.manifest import Manifest
from storage.objects.base import ObjectStore
from storage.tables.duckdb_file import DuckDBFile
from tests.model.oracle import Event, Row


@dataclass(frozen=True)
class Snapshot:
    """Every bucket's manifest, and the rows in its files."""

    manifests: dict[Bucket, Manifest]
    rows: dict[Bucket, list[Row]]

    @property
    def events(self) -> list[Row]:
        return [row for bucket, rows in self.rows.items() if bucket.stream != DEAD_LETTERS for row in rows]

    @property
    def dead_letters(self) -> list[Row]:
        return [row for bucket, rows in self.rows.items() if bucket.stream == DEAD_LETTERS for row in rows]

    @property
    def ids(self) -> set[Event]:
        """Return all events that are stored, delivered or as dead letters."""
        return {row.event for rows in self.rows.values() for row in rows}

    def check_counters(self, now: datetime) -> None:
        """Check counters and closing.

        received = delivered + duplicate + dead letter; the files hold as many rows as were counted; and no bucket closes
        before its hour is over.
        """
        for bucket, manifest in self.manifests.items():
            for outcomes in manifest.counters.values():
                results = [tally for outcome, tally in outcomes.items() if outcome != Outcome.RECEIVED]
                assert outcomes[Outcome.RECEIVED] == sum(results[1:], results[0]), manifest
            outcome = Outcome.DEAD_LETTER if bucket.stream == DEAD_LETTERS else Outcome.DELIVERED
            counted = sum(outcomes[outcome].count for outcomes in manifest.counters.values() if outcome in outcomes)
            assert counted == len(self.rows[bucket]), manifest
            assert not manifest.closed or bucket.end <= now, f"{bucket} has closed at {now}"

    def check_grown(self, before: Snapshot) -> None:
        """Check that no bucket has lost anything: later commits only add to earlier ones."""
        for bucket, old in before.manifests.items():
            new = self.manifests[bucket]
            assert new.commits[: len(old.commits)] == old.commits, f"{bucket} has lost a commit"
            assert new.version >= old.version, bucket
            assert not old.closed or new.closed_at == old.closed_at, f"{bucket} is open again"

    def without(self, hour: datetime) -> Snapshot:
        """Return the same snapshot without the buckets of an hour."""
        remaining = {bucket: manifest for bucket, manifest in self.manifests.items() if bucket.hour != hour}
        return Snapshot(remaining, {bucket: self.rows[bucket] for bucket in remaining})


class ObservedState:
    """Reads manifests and files, each file once: names are never reused."""

    def __init__(self, store: ObjectStore, tables: DuckDBFile) -> None:
        self._store, self._tables = store, tables
        self._rows: dict[str, list[Row]] = {}
        self._manifests: dict[bytes, Manifest] = {}

    def snapshot(self) -> Snapshot:
        """Read all manifests, and the rows of the files that they list."""
        manifests: dict[Bucket, Manifest] = {}
        for name in self._store.list(""):
            if name.endswith("/_RECEIPT.json"):
                data, _ = self._store.read(name)
                if data not in self._manifests:
                    self._manifests[data] = Manifest.from_json(data, name)
                manifests[self._manifests[data].bucket] = self._manifests[data]
        rows = {
            bucket: [row for data_file in manifest.data_files for row in self._read(bucket, data_file.name)]
            for bucket, manifest in manifests.items()
        }
        return Snapshot(manifests, rows)

    def in_tables(self, streams: Collection[str]) -> dict[Bucket, list[str]]:
        """Return the sorted message ids of each partition."""
        found: dict[Bucket, list[str]] = {}
        with duckdb.connect(self._tables.path) as db:
            for stream in streams:
                hour = "strftime(received_at AT TIME ZONE 'UTC', '%Y%m%d%H')"
                for key, message_id in db.execute(f"SELECT {hour}, message_id FROM {stream} ORDER BY 2").fetchall():
                    found.setdefault(Bucket.from_key(f"{stream}/{key}"), []).append(message_id)
        return found

    def empty_partition(self, bucket: Bucket) -> None:
        with duckdb.connect(self._tables.path) as db:
            db.execute(f"DELETE FROM {bucket.stream} WHERE date_trunc('hour', received_at) = ?", [bucket.hour])

    def _read(self, bucket: Bucket, data_file: str) -> list[Row]:
        name = f"{bucket.folder}/{data_file}"
        if name not in self._rows:
            with self._store.open(name) as file:
                records: Any = fastavro.reader(file)
                self._rows[name] = [
                    Row(Event(row["event_type"], row["event_id"]), row["message_id"], row["received_at"]) for row in records
                ]
        return self._rows[name]
