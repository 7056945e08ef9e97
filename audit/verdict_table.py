"""Verdicts, kept: each audit of an hour is a version, and the table's partition is that of the newest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from io import BytesIO
from typing import Any

import fastavro

from audit.verdicts import Verdict
from schemas.columns import columns_of
from schemas.envelope import format_time
from schemas.tables import Table
from storage.objects.base import AlreadyExists, ObjectStore
from storage.tables.base import TableStore

_MICROS = {"type": "long", "logicalType": "timestamp-micros"}

SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "verdict",
    "doc": "What the audit says of one event type in one hour.",
    "fields": [
        {"name": "event_type", "type": "string", "doc": "As the client claimed it; empty where it claimed none."},
        {"name": "hour", "type": _MICROS, "doc": "The start of the UTC hour."},
        {"name": "version", "type": "int", "doc": "The number of this audit of the hour; the highest holds."},
        {"name": "audited_at", "type": _MICROS, "doc": "When the hour was judged."},
        {"name": "status", "type": "string", "doc": "COMPLETE, MISSING, SURPLUS, MISSING_AND_SURPLUS or UNKNOWN."},
        {
            "name": "published",
            "type": ["null", "long"],
            "doc": "Messages, by the publishers' own count; null where none reported.",
        },
        {"name": "received", "type": "long", "doc": "Messages that came in, each delivery of one counted."},
        {"name": "in_files", "type": "long", "doc": "Rows that the bucket's files really hold."},
        {"name": "in_table", "type": "long", "doc": "Rows that the table's partition really holds."},
        {"name": "late", "type": "long", "doc": "Rows that came after the bucket had closed."},
        {"name": "duplicates", "type": "long", "doc": "Messages whose event was delivered already."},
        {"name": "dead_letters", "type": "long", "doc": "Messages that broke their contract, as the files hold them."},
        {"name": "findings", "type": {"type": "array", "items": "string"}, "doc": "What does not agree, a sentence each."},
    ],
}
TABLE = Table("verdicts", columns_of(SCHEMA), partition_by="hour", id_column="event_type")


def keep_verdicts(
    store: ObjectStore, tables: TableStore, hour: datetime, verdicts: Sequence[Verdict], now: datetime
) -> list[dict[str, Any]]:
    """Stores the verdicts of one hour as its next version, in a file and in the table, and returns them as rows of SCHEMA."""
    folder = f"audit/verdicts/dt={hour:%Y-%m-%d}/hour={hour:%H}"
    version = 1 + sum(1 for _ in store.list(f"{folder}/"))
    while True:
        rows = [_row(verdict, version, now) for verdict in verdicts]
        file = BytesIO()
        fastavro.writer(file, SCHEMA, rows, codec="deflate")
        name = f"{folder}/verdicts-{version:06d}.avro"
        try:
            store.create(name, file.getvalue())
            break
        except AlreadyExists:
            version += 1
    tables.load(f"verdicts-{hour:%Y%m%d%H}-{version}", TABLE, hour, store, [name])
    return rows


def to_json(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of SCHEMA with its times as text."""
    return {key: format_time(value) if isinstance(value, datetime) else value for key, value in row.items()}


def _row(verdict: Verdict, version: int, now: datetime) -> dict[str, Any]:
    fields = (field["name"] for field in SCHEMA["fields"])
    own = {"version": version, "audited_at": now}
    return {name: own[name] if name in own else _plain(getattr(verdict, name)) for name in fields}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
