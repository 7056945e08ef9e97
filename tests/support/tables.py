"""Table stores to test against: a DuckDB file, BigQuery's stand-in, and a real dataset if the environment names one."""

from __future__ import annotations

import io
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import fastavro
import pytest
from google.cloud import bigquery

from schemas.columns import Column
from schemas.tables import Table
from storage.objects.base import ObjectStore
from storage.open import open_store, open_tables
from storage.tables.base import TableStore
from tests.support.bigquery import BigQueryServer
from tests.support.gcs import GcsServer

Row = dict[str, Any]
Field = dict[str, Any]

MICROS = {"type": "long", "logicalType": "timestamp-micros"}
FIELDS: list[Field] = [{"name": "event_id", "type": "string"}, {"name": "received_at", "type": MICROS}]
COLUMNS = (Column("event_id", "STRING", "REQUIRED"), Column("received_at", "TIMESTAMP", "REQUIRED"))

DATASET, BUCKET = "EVENT_DELIVERY_TEST_DATASET", "EVENT_DELIVERY_TEST_BUCKET"
"""Environment variables: bigquery://project.dataset and gs://bucket[/prefix] of a real dataset to run the contract against."""


@dataclass
class Store:
    """A table store, an object store that it can load from, and a direct way to read the rows."""

    tables: TableStore
    objects: ObjectStore
    rows: Callable[[str, datetime], list[Row]]
    """(table, hour) -> rows, ordered by event id."""
    prefix: str = "t_"

    def table(self, *columns: Column) -> Table:
        """Describe a table of event id, received_at and `columns`. It is not created yet."""
        return Table(f"{self.prefix}{uuid.uuid4().hex}", COLUMNS + columns, "received_at", "event_id")

    def write(self, rows: Sequence[Row], *fields: Field) -> str:
        """Write an Avro file of these rows and return its name."""
        return self.write_bytes(avro_file(rows, *fields))

    def write_bytes(self, data: bytes) -> str:
        name = f"events/{uuid.uuid4().hex}.avro"
        self.objects.write(name, data)
        return name


def row(event_id: str, received_at: datetime, **values: object) -> Row:
    """Build a row with an event id, received_at and `values`."""
    return {"event_id": event_id, "received_at": received_at, **values}


def avro_file(rows: Sequence[Row], *fields: Field) -> bytes:
    """Return the bytes of an Avro file of rows with event id, received_at and `fields`."""
    buffer = io.BytesIO()
    schema = {"type": "record", "name": "row", "fields": [*FIELDS, *fields]}
    fastavro.writer(buffer, fastavro.parse_schema(schema), rows, codec="deflate", strict=True)
    return buffer.getvalue()


def job_id() -> str:
    return f"test-{uuid.uuid4().hex}"


@contextmanager
def duckdb_store(folder: Path) -> Iterator[Store]:
    path = folder / "tables.duckdb"
    tables = open_tables(str(path))

    def rows(table: str, hour: datetime) -> list[Row]:
        with duckdb.connect(str(path)) as db:
            db.execute("SET TimeZone = 'UTC'")
            query = f"SELECT * FROM {table} WHERE date_trunc('hour', received_at) = ? ORDER BY event_id"
            return db.sql(query, params=[hour]).to_arrow_table().to_pylist()

    yield Store(tables, open_store(str(folder / "storage")), rows)
    tables.close()  # type: ignore[attr-defined]


@contextmanager
def bigquery_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Store, BigQueryServer, GcsServer]]:
    """Yield BigQuery's stand-in, which loads from Cloud Storage's stand-in."""
    with GcsServer("bucket-of-events") as gcs:

        def read(uri: str) -> bytes:
            bucket, _, name = uri.removeprefix("gs://").partition("/")
            return gcs.read(bucket, name)

        with BigQueryServer("project-1.events", read) as server:
            monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs.url)
            monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", server.url)
            store = _bigquery_store("bigquery://project-1.events", "gs://bucket-of-events/data")
            yield store, server, gcs
            store.tables.client.close()  # type: ignore[attr-defined]


def real_store() -> Store:
    """Open the dataset and bucket that the environment names. Its tables are not deleted.

    Skips the test if the environment names none.
    """
    if DATASET not in os.environ or BUCKET not in os.environ:
        pytest.skip(f"set {DATASET} and {BUCKET} to run this against BigQuery itself")
    return _bigquery_store(os.environ[DATASET], os.environ[BUCKET])


def _bigquery_store(dataset: str, bucket: str) -> Store:
    tables = open_tables(dataset)

    def rows(table: str, hour: datetime) -> list[Row]:
        client: bigquery.Client = tables.client  # type: ignore[attr-defined]
        live = client.get_table(f"{dataset.removeprefix('bigquery://')}.{table}")
        partition = bigquery.DatasetReference(live.project, live.dataset_id).table(f"{table}${hour:%Y%m%d%H}")
        found = [dict(row) for row in client.list_rows(partition, selected_fields=live.schema)]
        return sorted(found, key=lambda row: str(row["event_id"]))

    return Store(tables, open_store(bucket), rows)
