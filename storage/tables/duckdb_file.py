"""Tables in a DuckDB file: everything analysts query, on one machine, with nothing installed but Python."""

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
"""`loaded`: the rows of a job that succeeded; `failure`: why the other kind did not. Written with the rows themselves."""

MEMORY = "256MB"
"""What DuckDB may keep in memory: more is on disk. Its own default is most of the machine's, which it would fill in time."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
"""Moments leave DuckDB as microseconds: for a TIMESTAMPTZ its Python client wants one more package."""


class _File:
    """The process's one connection to a DuckDB file, which its threads share. None while the file is closed."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.connection: duckdb.DuckDBPyConnection | None = None


_files: dict[str, _File] = {}
"""The DuckDB files of this process, by path: they outlive any one `DuckDBFile`, which steps pickle."""


class DuckDBFile:
    """Tables in one DuckDB file, as `storage.tables.base.Tables` promises.

    The process that opens the file first keeps it, until it ends or calls `close`; DuckDB lets no other one in meanwhile.
    All threads of the process share one connection and take turns. A nested REQUIRED field isn't enforced. A decimal is
    DECIMAL with its own precision and scale; with more than 38 digits, which DuckDB has not, it is text. A load holds one
    batch of rows in memory. The tables' jobs are in load_jobs.jobs; those of a table that was dropped are forgotten.
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
        """Raises TableStoreError, saying what to do, when the file can't be written. Any object store will do."""
        with self._transaction():
            pass  # opening it writes the table of jobs

    def close(self) -> None:
        """Lets go of the file, so that other processes can open it. The next call opens it again."""
        with self._file.lock:
            if self._file.connection:
                self._file.connection.close()
                self._file.connection = None

    def ensure(self, table: Table) -> None:
        """See `Tables.ensure`. A column that is no longer REQUIRED, or no longer in `table`, is relaxed to NULLABLE."""
        name = quote(table.name)
        with self._transaction() as db:
            if not _exists(db, table.name):
                columns = ", ".join(column_sql(column) for column in table.columns)
                db.execute(f"CREATE TABLE {name} ({columns})")
                # What was loaded into an earlier table of this name is not in this one.
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
        """See `Tables.load`. ValueError when there are no files, or `hour` is not the start of one."""
        if not files:
            raise ValueError("a load needs one file or more")
        if hour_of(hour) != hour:
            raise ValueError(f"{hour} is not the start of an hour")
        what = f"{self.path}: load of {table.name}, {hour:%Y-%m-%d %H}h"
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
                raise LoadJobFailed(f"{what}: {error}") from error
            except (StoreError, OSError) as error:
                raise LoadError(f"{what}: can't read a file: {error}") from error

    def row_counts(self, table: Table, first: datetime, last: datetime) -> Mapping[datetime, RowCounts]:
        """See `Tables.facts`."""
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
        """The process's connection to the file, for this thread alone."""
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
            connection = duckdb.connect(self.path)
            connection.execute("SET TimeZone = 'UTC'")
            connection.execute(f"SET memory_limit = '{MEMORY}'")
            connection.execute(_JOBS)
        except (duckdb.Error, OSError) as error:
            if "Conflicting lock" in str(error):
                raise TableStoreError(
                    f"{self.path} is open in another process, and DuckDB lets only one in. "
                    f"Wait until that one ends, or name another file. DuckDB says: {_first_line(error)}"
                ) from error
            raise TableStoreError(f"{self.path} can't be opened for writing as a DuckDB file: {_first_line(error)}") from error
        return connection


def _exists(db: duckdb.DuckDBPyConnection, name: str) -> bool:
    query = "SELECT 1 FROM information_schema.tables WHERE table_schema = 'main' AND table_name = ?"
    return bool(db.execute(query, [name]).fetchall())


def _rows_of_job(db: duckdb.DuckDBPyConnection, job_id: str, table: Table, hour: datetime) -> int | None:
    """The rows that the job of this id has loaded, None where there was none. Raises LoadJobFailed where it has failed."""
    query = "SELECT table_name = ? AND hour = ?, loaded, failure FROM load_jobs.jobs WHERE job_id = ?"
    jobs = db.execute(query, [table.name, hour, job_id]).fetchall()
    if not jobs:
        return None
    [(same, rows, failure)] = jobs
    if not same:
        raise LoadError(f"another load has had the id {job_id}: give the one of {table.name}, {hour:%Y-%m-%d %H}h its own")
    if failure is not None:
        raise LoadJobFailed(f"job {job_id} has failed before: {failure}", already_failed=True)
    return int(rows)


def _replace(db: duckdb.DuckDBPyConnection, table: Table, hour: datetime, store: ObjectStore, files: Sequence[str]) -> int:
    name, when = quote(table.name), quote(table.partition_by)
    if not _exists(db, table.name):
        raise TableStoreError(f"there is no table {table.name} to load into: `ensure` makes it")
    columns = db.sql(f"SELECT * FROM {name} LIMIT 0").to_arrow_table().schema
    db.execute(f"DELETE FROM {name} WHERE {when} >= ? AND {when} < ?", [hour, hour + HOUR])
    rows = _Rows(store, files, columns, table.partition_by, hour)
    # One statement for all files: each INSERT of its own would keep some memory until the transaction ends.
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


class _Rows:
    """The rows of an hour's files, for DuckDB to fetch. What goes wrong there reaches it as a text only, so it is kept."""

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
        moments = batch.column(self._when)
        span = pc.min_max(moments).as_py()
        if moments.null_count or span["min"] < self._hour or span["max"] >= self._hour + HOUR:
            raise Unloadable(f"{self.file}: a row whose {self._when} is not in the hour {self._hour:%Y-%m-%d %H}")


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0]
