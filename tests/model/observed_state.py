"""What buckets and tables really hold, read anew after each step that may have changed it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import duckdb
import fastavro

from schemas.buckets import DEAD_LETTERS, Bucket
from schemas.outcomes import Exit
from storage.buckets.manifest import Receipt
from storage.objects.base import Buckets
from storage.tables.duckdb_file import DuckDBFile
from tests.model.oracle import Event, Row


@dataclass(frozen=True)
class Held:
    """Every bucket's receipt, and the rows in its files."""

    receipts: dict[Bucket, Receipt]
    rows: dict[Bucket, list[Row]]

    @property
    def events(self) -> list[Row]:
        return [row for bucket, rows in self.rows.items() if bucket.stream != DEAD_LETTERS for row in rows]

    @property
    def letters(self) -> list[Row]:
        return [row for bucket, rows in self.rows.items() if bucket.stream == DEAD_LETTERS for row in rows]

    @property
    def ids(self) -> set[Event]:
        """Of all that is there, delivered or refused."""
        return {row.event for rows in self.rows.values() for row in rows}

    def check_books(self, now: datetime) -> None:
        """received = delivered + duplicate + dead letter, the files hold what was counted, and nothing closes before its hour
        is over."""
        for bucket, receipt in self.receipts.items():
            for ways in receipt.books.values():
                parts = [tally for way, tally in ways.items() if way != Exit.RECEIVED]
                assert ways[Exit.RECEIVED] == sum(parts[1:], parts[0]), receipt
            way = Exit.DEAD_LETTER if bucket.stream == DEAD_LETTERS else Exit.DELIVERED
            counted = sum(ways[way].count for ways in receipt.books.values() if way in ways)
            assert counted == len(self.rows[bucket]), receipt
            assert not receipt.closed or bucket.end <= now, f"{bucket} has closed at {now}"

    def check_grown(self, before: Held) -> None:
        """A bucket never loses anything: whoever comes later goes on with it."""
        for bucket, old in before.receipts.items():
            new = self.receipts[bucket]
            assert new.commits[: len(old.commits)] == old.commits, f"{bucket} has lost a commit"
            assert new.version >= old.version, bucket
            assert not old.closed or new.closed_at == old.closed_at, f"{bucket} is open again"

    def without(self, hour: datetime) -> Held:
        """The same but for the buckets of an hour."""
        left = {bucket: receipt for bucket, receipt in self.receipts.items() if bucket.hour != hour}
        return Held(left, {bucket: self.rows[bucket] for bucket in left})


class Store:
    """Reads each file once: no name is ever given to two."""

    def __init__(self, buckets: Buckets, tables: DuckDBFile) -> None:
        self._buckets, self._tables = buckets, tables
        self._rows: dict[str, list[Row]] = {}
        self._receipts: dict[bytes, Receipt] = {}

    def held(self) -> Held:
        receipts: dict[Bucket, Receipt] = {}
        for name in self._buckets.list(""):
            if name.endswith("/_RECEIPT.json"):
                data, _ = self._buckets.read(name)
                if data not in self._receipts:
                    self._receipts[data] = Receipt.from_json(data, name)
                receipts[self._receipts[data].bucket] = self._receipts[data]
        rows = {
            bucket: [row for part in receipt.parts for row in self._read(bucket, part.name)]
            for bucket, receipt in receipts.items()
        }
        return Held(receipts, rows)

    def in_tables(self, streams: Collection[str]) -> dict[Bucket, list[str]]:
        """Message ids by the partition that they are in."""
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

    def _read(self, bucket: Bucket, part: str) -> list[Row]:
        name = f"{bucket.folder}/{part}"
        if name not in self._rows:
            with self._buckets.open(name) as file:
                read: Any = fastavro.reader(file)
                self._rows[name] = [
                    Row(Event(row["event_type"], row["event_id"]), row["message_id"], row["received_at"]) for row in read
                ]
        return self._rows[name]
