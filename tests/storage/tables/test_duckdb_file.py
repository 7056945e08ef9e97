"""DuckDBFile beyond the contract of TableStore: one process at a time, one file, decimals of more than 38 digits."""

import pickle
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import duckdb
import pytest

from schemas.columns import Column, columns_of
from storage.open import open_tables
from storage.tables.base import LoadJobFailed, TableStoreError
from storage.tables.duckdb_file import DuckDBFile
from tests.support.tables import Store, duckdb_store, job_id

TEN = datetime(2026, 3, 29, 10, tzinfo=UTC)
ROW = {"event_id": "a", "received_at": TEN}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with duckdb_store(tmp_path) as store:
        yield store


@pytest.mark.integration
def test_check_writable__open_in_other_process(store: Store, tmp_path: Path) -> None:
    """The error states that another process has the file open, and contains a remedy."""
    path = tmp_path / "other.duckdb"
    code = "import duckdb, sys; db = duckdb.connect(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        other.stdout.readline()
        with pytest.raises(TableStoreError, match=r"open in another process.*What to do: wait until"):
            DuckDBFile(path).check_writable(store.objects)
        other.stdin.close()


def test_check_writable__no_duckdb_file(store: Store, tmp_path: Path) -> None:
    """The error names a file that is no DuckDB file."""
    path = tmp_path / "other.duckdb"
    path.write_bytes(b"something else" * 1000)
    with pytest.raises(TableStoreError, match=rf"{path} can't be opened"):
        DuckDBFile(path).check_writable(store.objects)


def test_check_writable__folder_not_creatable(store: Store, tmp_path: Path) -> None:
    """A path whose folder can't be created is an error."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(TableStoreError, match="can't be opened"):
        DuckDBFile(tmp_path / "file" / "tables.duckdb").check_writable(store.objects)


def test_uri__absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The URI is the absolute path."""
    monkeypatch.chdir(tmp_path)
    assert DuckDBFile("x/tables.duckdb").uri == str(tmp_path / "x" / "tables.duckdb")


@pytest.mark.parametrize("uri", ["", "tables.db", "gs://bucket/tables.duckdb", "bigquery:project.dataset"])
def test_open_tables__invalid_uri(uri: str) -> None:
    """The error contains both forms that are accepted."""
    with pytest.raises(TableStoreError, match=r"bigquery://project\.dataset, or a path that ends in \.duckdb"):
        open_tables(uri)


def test_pickle__same_process(store: Store) -> None:
    """Copies in one process share the open file."""
    table = store.table()
    pickle.loads(pickle.dumps(store.tables)).ensure(table)
    assert store.tables.load(job_id(), table, TEN, store.objects, [store.write([ROW])]) == 1


def test_close__other_process(store: Store) -> None:
    """Another process can open a closed file, and the next call opens it again."""
    table = store.table()
    store.tables.ensure(table)
    store.tables.load(job_id(), table, TEN, store.objects, [store.write([ROW])])
    assert isinstance(store.tables, DuckDBFile)
    store.tables.close()
    code = f"import duckdb, sys; print(duckdb.connect(sys.argv[1]).sql('SELECT count(*) FROM {table.name}').fetchall())"
    other = subprocess.run([sys.executable, "-c", code, store.tables.uri], capture_output=True, text=True, check=True)
    assert other.stdout == "[(1,)]\n"
    assert store.tables.row_counts(table, TEN, TEN)[TEN].rows == 1


def test_load__records_jobs(store: Store) -> None:
    """Successful jobs are recorded with their rows, failed ones with their error."""
    table, good, bad = store.table(), job_id(), job_id()
    store.tables.ensure(table)
    store.tables.load(good, table, TEN, store.objects, [store.write([ROW])])
    with pytest.raises(LoadJobFailed):
        store.tables.load(bad, table, TEN, store.objects, [store.write_bytes(b"")])
    with duckdb.connect(store.tables.uri) as db:
        jobs = db.sql("SELECT job_id, table_name, loaded, failure IS NOT NULL FROM load_jobs.jobs ORDER BY loaded").fetchall()
    assert jobs == [(good, table.name, 1, False), (bad, table.name, None, True)]


@pytest.mark.parametrize(
    ("precision", "scale", "number", "read"),
    [
        (38, 0, Decimal("9" * 38), Decimal("9" * 38)),
        (39, 1, Decimal("-0.1"), "-0.1"),
        (76, 38, Decimal(f"{'9' * 38}.{'9' * 38}"), f"{'9' * 38}.{'9' * 38}"),
        (60, 30, Decimal("0E-30"), f"0.{'0' * 30}"),
    ],
)
def test_load__decimals(store: Store, precision: int, scale: int, number: Decimal, read: object) -> None:
    """A decimal with more digits than DuckDB supports is stored as text, without loss."""
    big = {"name": "big", "type": {"type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale}}
    table = store.table(*columns_of({"type": "record", "name": "r", "fields": [big]}))
    store.tables.ensure(table)
    store.tables.ensure(table)
    store.tables.load(job_id(), table, TEN, store.objects, [store.write([{**ROW, "big": number}], big)])
    assert store.rows(table.name, TEN) == [{**ROW, "big": read}]


def test_ensure__dropped_table(store: Store) -> None:
    """A table that was dropped and created again can be loaded with the same job id."""
    table, kept, reused = store.table(), store.table(), job_id()
    files = [store.write([ROW])]
    for created, job in ((table, reused), (kept, f"{reused}-kept")):
        store.tables.ensure(created)
        store.tables.load(job, created, TEN, store.objects, files)
    store.tables.close()  # type: ignore[attr-defined]
    with duckdb.connect(store.tables.uri) as db:
        db.execute(f"DROP TABLE {table.name}")
        db.execute(f"DELETE FROM {kept.name}")
    store.tables.ensure(table)
    store.tables.ensure(kept)
    assert store.tables.load(reused, table, TEN, store.objects, files) == 1
    assert store.rows(table.name, TEN) == [ROW]
    assert store.tables.load(f"{reused}-kept", kept, TEN, store.objects, files) == 1
    assert store.rows(kept.name, TEN) == []


def test_load__error_without_values(store: Store) -> None:
    """The error of a failed load contains no value."""
    table = store.table(Column("name", "INT64", "NULLABLE"))
    store.tables.ensure(table)
    file = store.write([{**ROW, "name": "a secret"}], {"name": "name", "type": "string"})
    with pytest.raises(LoadJobFailed) as error:
        store.tables.load(job_id(), table, TEN, store.objects, [file])
    assert "secret" not in str(error.value)


def storage_version(path: str) -> int:
    """The version in the file's header: 8 bytes of checksum, the letters DUCK, then the number."""
    header = Path(path).read_bytes()[:20]
    assert header[8:12] == b"DUCK"
    return int.from_bytes(header[12:20], "little")


def test_connect__storage_version(store: Store) -> None:
    """67 is the format of DuckDB 1.4; this DuckDB's own is another. Later loads don't change it."""
    table = store.table()
    store.tables.check_writable(store.objects)
    assert storage_version(store.tables.uri) == 67
    for hour in (TEN, TEN + timedelta(hours=1)):
        store.tables.ensure(table)
        store.tables.load(job_id(), table, hour, store.objects, [store.write([{**ROW, "received_at": hour}])])
        store.tables.close()  # type: ignore[attr-defined]
        assert storage_version(store.tables.uri) == 67


def test_connect__file_of_other_version(store: Store, tmp_path: Path) -> None:
    """A file that is there keeps its rows and its version."""
    path = tmp_path / "other.duckdb"
    duckdb.connect(path).execute("CREATE TABLE kept AS SELECT 1 AS a").close()
    before = storage_version(str(path))
    assert before != 67
    tables = DuckDBFile(path)
    tables.check_writable(store.objects)
    tables.close()
    assert storage_version(str(path)) == before
    with duckdb.connect(path, read_only=True) as db:
        assert db.sql("FROM kept").fetchall() == [(1,)]
