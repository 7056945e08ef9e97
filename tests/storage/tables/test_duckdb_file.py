"""What only a DuckDB file can do, or fail to do: one process at a time, one file, no number beyond 38 digits."""

import pickle
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
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


@pytest.mark.slow
def test_a_file_that_another_process_has_open_is_an_error_that_says_so(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "other.duckdb"
    code = "import duckdb, sys; db = duckdb.connect(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        other.stdout.readline()
        with pytest.raises(TableStoreError, match=r"open in another process.*What to do: wait until"):
            DuckDBFile(path).check_writable(store.objects)
        other.stdin.close()


def test_what_is_no_duckdb_file_is_an_error_that_names_it(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "other.duckdb"
    path.write_bytes(b"something else" * 1000)
    with pytest.raises(TableStoreError, match=rf"{path} can't be opened"):
        DuckDBFile(path).check_writable(store.objects)


def test_a_path_whose_folder_cannot_be_made_is_an_error(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(TableStoreError, match="can't be opened"):
        DuckDBFile(tmp_path / "file" / "tables.duckdb").check_writable(store.objects)


def test_its_uri_is_the_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert DuckDBFile("x/tables.duckdb").uri == str(tmp_path / "x" / "tables.duckdb")


@pytest.mark.parametrize("uri", ["", "tables.db", "gs://bucket/tables.duckdb", "bigquery:project.dataset"])
def test_an_address_of_no_tables_is_an_error_that_names_both_kinds(uri: str) -> None:
    with pytest.raises(TableStoreError, match=r"bigquery://project\.dataset, or a path that ends in \.duckdb"):
        open_tables(uri)


def test_copies_in_one_process_share_the_open_file(store: Store) -> None:
    table = store.table()
    pickle.loads(pickle.dumps(store.tables)).ensure(table)
    assert store.tables.load(job_id(), table, TEN, store.objects, [store.write([ROW])]) == 1


def test_once_closed_another_process_can_open_it_and_the_next_call_opens_it_again(store: Store) -> None:
    table = store.table()
    store.tables.ensure(table)
    store.tables.load(job_id(), table, TEN, store.objects, [store.write([ROW])])
    assert isinstance(store.tables, DuckDBFile)
    store.tables.close()
    code = f"import duckdb, sys; print(duckdb.connect(sys.argv[1]).sql('SELECT count(*) FROM {table.name}').fetchall())"
    other = subprocess.run([sys.executable, "-c", code, store.tables.uri], capture_output=True, text=True, check=True)
    assert other.stdout == "[(1,)]\n"
    assert store.tables.row_counts(table, TEN, TEN)[TEN].rows == 1


def test_jobs_are_recorded_with_their_rows_and_failures(store: Store) -> None:
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
def test_a_number_with_more_digits_than_duckdb_has_is_kept_whole_as_text(
    store: Store, precision: int, scale: int, number: Decimal, read: object
) -> None:
    big = {"name": "big", "type": {"type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale}}
    table = store.table(*columns_of({"type": "record", "name": "r", "fields": [big]}))
    store.tables.ensure(table)
    store.tables.ensure(table)
    store.tables.load(job_id(), table, TEN, store.objects, [store.write([{**ROW, "big": number}], big)])
    assert store.rows(table.name, TEN) == [{**ROW, "big": read}]


def test_a_table_that_was_dropped_and_made_again_is_loaded_again_under_the_same_id(store: Store) -> None:
    table, kept, one = store.table(), store.table(), job_id()
    files = [store.write([ROW])]
    for each, job in ((table, one), (kept, f"{one}-kept")):
        store.tables.ensure(each)
        store.tables.load(job, each, TEN, store.objects, files)
    store.tables.close()  # type: ignore[attr-defined]
    with duckdb.connect(store.tables.uri) as db:
        db.execute(f"DROP TABLE {table.name}")
        db.execute(f"DELETE FROM {kept.name}")
    store.tables.ensure(table)
    store.tables.ensure(kept)
    assert store.tables.load(one, table, TEN, store.objects, files) == 1
    assert store.rows(table.name, TEN) == [ROW]
    assert store.tables.load(f"{one}-kept", kept, TEN, store.objects, files) == 1
    assert store.rows(kept.name, TEN) == []


def test_a_failure_names_no_value(store: Store) -> None:
    table = store.table(Column("name", "INT64", "NULLABLE"))
    store.tables.ensure(table)
    file = store.write([{**ROW, "name": "a secret"}], {"name": "name", "type": "string"})
    with pytest.raises(LoadJobFailed) as error:
        store.tables.load(job_id(), table, TEN, store.objects, [file])
    assert "secret" not in str(error.value)
