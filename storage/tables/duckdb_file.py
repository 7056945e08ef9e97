"""A table store in a DuckDB file, for analysts on one machine. It needs no installation but Python's."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from schemas.buckets import HOUR, hour_of
from schemas.fingerprints import Tally
from schemas.tables import Table
from storage.objects.base import NotFound, ObjectStore, StoreError
from storage.tables.avro_to_arrow import Unloadable, read_batches
from storage.tables.base import LoadError, LoadJobFailed, RowCounts, TableStoreError
from storage.tables.duckdb_schema import column_sql, missing_sql, quote

_JOBS = """
CREATE SCHEMA IF NOT EXISTS load_jobs;
CREATE TABLE IF NOT EXISTS load_jobs.jobs (
    job_id VARCHAR PRIMARY KEY, table_name VARCHAR NOT NULL, hour TIMESTAMPTZ NOT NULL, loaded BIGINT, failure VARCHAR
)
"""
"""SQL of the table of load jobs. `loaded` is the number of rows of a successful job, `failure` the error of a failed one.

A successful job is recorded in the transaction that writes its rows.
"""

MEMORY = "256MB"
"""Limit of DuckDB's memory; more goes to the disk. Its default is most of the machine's memory, which it would fill in time."""

STORAGE_VERSION = "v1.4.0"
"""Format of new files, which DuckDB 1.4 and later can read. By default only the installed version and later ones could."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
"""Times are read as microseconds since this one: for a TIMESTAMPTZ, DuckDB's Python client needs another package."""


class _File:
    """The connection of this process to a DuckDB file, shared by its threads."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        """To be held while `connection` is used."""
        self.connection: duckdb.DuckDBPyConnection | None = None
        """None while the file is closed."""


_files: dict[str, _File] = {}
"""DuckDB files of this process, by path. They outlive each `DuckDBFile`, because steps pickle these."""


class DuckDBFile:
    """Table store in a DuckDB file.

    A process that opens the file keeps it open until it ends or calls `close`. DuckDB lets no other process open the file
    meanwhile. All threads of the process share one connection, one at a time.

    A REQUIRED field within a record is not enforced. A decimal is a DECIMAL with its precision and scale, or text if it has
    more than 38 digits, the most that DuckDB supports.

    A load holds one batch of rows in memory. Load jobs are recorded in the table load_jobs.jobs. When a table that was
    dropped is created again, the records of its jobs are deleted, so that its hours can be loaded again.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = os.path.abspath(path)

    @property
    def uri(self) -> str:
        return self.path

    @property
    def _file(self) -> _File:
        return _files.setdefault(self.path, _File())

    def check_writable(self, store: ObjectStore) -> None:
        """Check that the file can be written. `store` is not checked, because files can be loaded from any.

        Raises:
            TableStoreError: The file can't be written. The message names the remedy.
        """
        with self._transaction():
            pass  # Opening the file writes the table of load jobs.

    def close(self) -> None:
        """Close the file, so that other processes can open it. The next call opens it again."""
        with self._file.lock:
            if self._file.connection:
                self._file.connection.close()
                self._file.connection = None

    def ensure(self, table: Table) -> None:
        name = quote(table.name)
        with self._transaction() as db:
            if not _exists(db, table.name):
                columns = ", ".join(column_sql(column) for column in table.columns)
                db.execute(f"CREATE TABLE {name} ({columns})")
                # The new table lacks the rows that were loaded into an earlier one of this name.
                db.execute("DELETE FROM load_jobs.jobs WHERE table_name = ?", [table.name])
                return
            live = db.sql(f"SELECT * FROM {name}")
            for added in missing_sql(table, dict(zip(live.columns, live.types, strict=True))):
                db.execute(f"ALTER TABLE {name} ADD COLUMN {added}")
            required = {column.name for column in table.columns if column.mode == "REQUIRED"}
            for column, _, nullable, *_ in db.execute(f"DESCRIBE {name}").fetchall():
                if nullable == "NO" and column not in required:
                    db.execute(f"ALTER TABLE {name} ALTER COLUMN {quote(column)} DROP NOT NULL")

    def load(self, job_id: str, table: Table, hour: datetime, store: ObjectStore, files: Sequence[str]) -> int:
        if not files:
            raise ValueError("a load needs at least one file")
        if hour_of(hour) != hour:
            raise ValueError(f"{hour} is not the start of an hour")
        failure = f"{self.path}: can't load the hour {hour:%Y-%m-%dT%H} of table {table.name}"
        with self._held():
            try:
                with self._transaction() as db:
                    rows = _rows_of_job(db, job_id, table, hour)
                    if rows is None:
                        rows = _replace(db, table, hour, store, files)
                        db.execute("INSERT INTO load_jobs.jobs VALUES (?, ?, ?, ?, NULL)", [job_id, table.name, hour, rows])
                    return rows
            except Unloadable as error:
                with self._transaction() as db:
                    db.execute("INSERT INTO load_jobs.jobs VALUES (?, ?, ?, NULL, ?)", [job_id, table.name, hour, str(error)])
                raise LoadJobFailed(f"{failure}: {error}") from error
            except (StoreError, OSError) as error:
                raise LoadError(f"{failure}: can't read a file: {error}") from error

    def row_counts(self, table: Table, first: datetime, last: datetime) -> Mapping[datetime, RowCounts]:
        when, row_id = quote(table.partition_by), quote(table.id_column)
        lanes = ", ".join(f"coalesce(sum(('0x' || substr(digest, {1 + 8 * lane}, 8))::BIGINT), 0)" for lane in range(4))
        query = f"""
            SELECT epoch_us(hour), sum(copies), count(id), {lanes}
            FROM (
                SELECT date_trunc('hour', {when}) AS hour, {row_id} AS id, count(*) AS copies, sha256({row_id}) AS digest
                FROM {quote(table.name)} WHERE {when} >= ? AND {when} < ? GROUP BY ALL
            )
            GROUP BY hour ORDER BY hour"""
        with self._transaction() as db:
            if not _exists(db, table.name):
                return {}
            hourly_rows = db.execute(query, [first, last + HOUR]).fetchall()
        return {
            _EPOCH + timedelta(microseconds=hour): RowCounts(rows, Tally(ids, (a, b, c, d)))
            for hour, rows, ids, a, b, c, d in hourly_rows
        }

    @contextmanager
    def _held(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Yield the connection of this process to the file, for exclusive use by the calling thread."""
        file = self._file
        with file.lock:
            file.connection = file.connection or self._connect()
            yield file.connection

    @contextmanager
    def _transaction(self) -> Iterator[duckdb.DuckDBPyConnection]:
        with self._held() as db:
            try:
                db.begin()
                try:
                    yield db
                except BaseException:
                    db.rollback()
                    raise
                db.commit()
            except duckdb.Error as error:
                raise TableStoreError(f"{self.path}: {_first_line(error)}") from error

    def _connect(self) -> duckdb.DuckDBPyConnection:
        try:
            Path(self.path).parent.mkdir(parents=True, exist_ok=True)
            if not Path(self.path).exists():
                # Set on a connection of its own, because DuckDB refuses connections of one process with different settings.
                duckdb.connect(self.path, config={"storage_compatibility_version": STORAGE_VERSION}).close()
            connection = duckdb.connect(self.path)
            connection.execute("SET TimeZone = 'UTC'")
            connection.execute(f"SET memory_limit = '{MEMORY}'")
            connection.execute(_JOBS)
        except (duckdb.Error, OSError) as error:
            if "Conflicting lock" in str(error):
                raise TableStoreError(
                    f"{self.path} is open in another process, and DuckDB allows one at a time: {_first_line(error)}."
                    " What to do: wait until the other process ends, or give another file"
                ) from error
            raise TableStoreError(
                f"{self.path} can't be opened for writing as a DuckDB file: {_first_line(error)}."
                " What to do: give the path of a DuckDB file that this user can write"
            ) from error
        return connection


def _exists(db: duckdb.DuckDBPyConnection, name: str) -> bool:
    query = "SELECT 1 FROM information_schema.tables WHERE table_schema = 'main' AND table_name = ?"
    return bool(db.execute(query, [name]).fetchall())


def _rows_of_job(db: duckdb.DuckDBPyConnection, job_id: str, table: Table, hour: datetime) -> int | None:
    """Return the number of rows that the job loaded, or None if there is no such job.

    Raises:
        LoadJobFailed: The job failed.
        LoadError: Another load has used the id.
    """
    query = "SELECT table_name = ? AND hour = ?, loaded, failure FROM load_jobs.jobs WHERE job_id = ?"
    jobs = db.execute(query, [table.name, hour, job_id]).fetchall()
    if not jobs:
        return None
    [(same, rows, failure)] = jobs
    if not same:
        raise LoadError(
            f"can't load the hour {hour:%Y-%m-%dT%H} of table {table.name}: another load has used the id {job_id}."
            " What to do: give this load an id of its own"
        )
    if failure is not None:
        raise LoadJobFailed(f"job {job_id} failed earlier: {failure}", already_failed=True)
    return int(rows)


def _replace(db: duckdb.DuckDBPyConnection, table: Table, hour: datetime, store: ObjectStore, files: Sequence[str]) -> int:
    name, when = quote(table.name), quote(table.partition_by)
    if not _exists(db, table.name):
        raise TableStoreError(f"can't load into table {table.name}: it does not exist. What to do: create it with `ensure`")
    columns = db.sql(f"SELECT * FROM {name} LIMIT 0").to_arrow_table().schema
    db.execute(f"DELETE FROM {name} WHERE {when} >= ? AND {when} < ?", [hour, hour + HOUR])
    rows = _FileRows(store, files, columns, table.partition_by, hour)
    # One statement for all files, because each INSERT keeps some memory until the transaction ends.
    db.register("rows", pa.RecordBatchReader.from_batches(columns, rows.batches()))
    try:
        db.execute(f"INSERT INTO {name} BY NAME SELECT * FROM rows")
    except duckdb.Error as error:
        if rows.error:
            raise rows.error from None
        if isinstance(error, duckdb.ConstraintException | duckdb.ConversionException):
            raise Unloadable(f"a row of {rows.file}, or of one before it: {_first_line(error)}") from error
        raise
    db.unregister("rows")
    return rows.count


class _FileRows:
    """Rows of an hour's files, which DuckDB reads batch by batch.

    DuckDB reports an error of an iterator as text only. Therefore `error` keeps the exception.
    """

    def __init__(self, store: ObjectStore, files: Sequence[str], columns: pa.Schema, when: str, hour: datetime) -> None:
        self._store, self._files, self._columns, self._when, self._hour = store, files, columns, when, hour
        self.file = ""
        self.count = 0
        self.error: Exception | None = None

    def batches(self) -> Iterator[pa.RecordBatch]:
        try:
            for file in self._files:
                self.file = file
                with self._open(file) as source:
                    for batch in read_batches(source, file, self._columns):
                        self._check(batch)
                        self.count += batch.num_rows
                        yield from batch.to_batches()
        except Exception as error:
            self.error = error
            raise

    def _open(self, file: str) -> BinaryIO:
        try:
            return self._store.open(file)
        except NotFound as error:
            raise Unloadable(f"{file}: {error}") from error

    def _check(self, batch: pa.Table) -> None:
        times = batch.column(self._when)
        span = pc.min_max(times).as_py()
        if times.null_count or span["min"] < self._hour or span["max"] >= self._hour + HOUR:
            raise Unloadable(f"{self.file}: the {self._when} of a row is null or outside the hour {self._hour:%Y-%m-%dT%H}")


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0]
