"""The contract of `storage.tables.base.TableStore`, for each implementation."""

import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import fastavro
import pytest

from schemas.columns import Column
from schemas.fingerprints import Tally
from schemas.registry.contracts import Contract
from schemas.row_schemas import row_schema
from schemas.tables import table_of
from storage.tables.base import LoadJobFailed, RowCounts, TableStoreError
from tests.support.contracts import contract_of
from tests.support.tables import Row, Store, job_id, row

TEN = datetime(2026, 3, 29, 10, tzinfo=UTC)
ELEVEN = TEN + timedelta(hours=1)

NAME = {"name": "name", "type": "string"}


def ids(store: Store, table: str, hour: datetime = TEN) -> list[str]:
    return [row["event_id"] for row in store.rows(table, hour)]


def test_check_writable__readable_store(store: Store) -> None:
    """A table store passes the check with an object store whose files it can load."""
    store.tables.check_writable(store.objects)


def test_ensure__repeated(store: Store) -> None:
    """A repeated call changes nothing."""
    table = store.table(Column("name", "STRING", "NULLABLE"))
    store.tables.ensure(table)
    store.tables.load(job_id(), table, TEN, store.objects, [store.write([row("a", TEN, name="x")], NAME)])
    store.tables.ensure(table)
    assert store.rows(table.name, TEN) == [row("a", TEN, name="x")]


def test_ensure__new_columns(store: Store) -> None:
    """New columns are added, and the rows are kept."""
    table = store.table(Column("name", "STRING", "NULLABLE"))
    store.tables.ensure(table)
    store.tables.load(job_id(), table, TEN, store.objects, [store.write([row("a", TEN, name="x")], NAME)])

    tags = {"name": "tags", "type": {"type": "array", "items": "string"}}
    size = {"name": "size", "type": "long"}
    wider = replace(table, columns=(*table.columns, Column("tags", "STRING", "REPEATED"), Column("size", "INT64", "REQUIRED")))
    store.tables.ensure(wider)
    store.tables.load(job_id(), wider, ELEVEN, store.objects, [store.write([row("b", ELEVEN, tags=["t"], size=7)], tags, size)])

    assert store.rows(table.name, TEN) == [row("a", TEN, name="x", tags=[], size=None)]
    assert store.rows(table.name, ELEVEN) == [row("b", ELEVEN, name=None, tags=["t"], size=7)]


def test_ensure__column_only_in_table(store: Store) -> None:
    """A column that only the table has is kept and may be null."""
    table = store.table(Column("name", "STRING", "REQUIRED"))
    store.tables.ensure(table)
    store.tables.load(job_id(), table, TEN, store.objects, [store.write([row("a", TEN, name="x")], NAME)])

    narrower = replace(table, columns=table.columns[:-1])
    store.tables.ensure(narrower)
    store.tables.load(job_id(), narrower, ELEVEN, store.objects, [store.write([row("b", ELEVEN)])])

    assert store.rows(table.name, TEN) == [row("a", TEN, name="x")]
    assert store.rows(table.name, ELEVEN) == [row("b", ELEVEN, name=None)]


def test_ensure__no_longer_required(store: Store) -> None:
    """A column that is no longer REQUIRED may be null."""
    table = store.table(Column("name", "STRING", "REQUIRED"))
    store.tables.ensure(table)
    relaxed = replace(table, columns=(*table.columns[:2], Column("name", "STRING", "NULLABLE")))
    store.tables.ensure(relaxed)
    file = store.write([row("a", TEN, name=None)], {"name": "name", "type": ["null", "string"]})
    store.tables.load(job_id(), relaxed, TEN, store.objects, [file])
    assert store.rows(table.name, TEN) == [row("a", TEN, name=None)]


def test_ensure__new_nested_fields(store: Store) -> None:
    """Fields are added to records at any depth and in lists."""

    def columns(*leaf: Column) -> tuple[Column, ...]:
        inner = Column("inner", "STRUCT", "NULLABLE", (Column("a", "INT64", "NULLABLE"), *leaf))
        return Column("outer", "STRUCT", "NULLABLE", (inner, *leaf)), Column("list", "STRUCT", "REPEATED", (inner, *leaf))

    def fields(*leaf: Row) -> tuple[Row, Row]:
        def outer(name: str) -> Row:
            inner = {"type": "record", "name": f"{name}_inner", "fields": [{"name": "a", "type": "int"}, *leaf]}
            return {"type": "record", "name": name, "fields": [{"name": "inner", "type": inner}, *leaf]}

        return {"name": "outer", "type": outer("r1")}, {"name": "list", "type": {"type": "array", "items": outer("r2")}}

    table = store.table(*columns())
    store.tables.ensure(table)
    old = {"inner": {"a": 1}}
    store.tables.load(job_id(), table, TEN, store.objects, [store.write([row("a", TEN, outer=old, list=[old])], *fields())])

    wider = replace(table, columns=(*table.columns[:2], *columns(Column("b", "STRING", "NULLABLE"))))
    store.tables.ensure(wider)
    new = {"inner": {"a": 2, "b": "x"}, "b": "y"}
    leaf = {"name": "b", "type": "string"}
    file = store.write([row("b", ELEVEN, outer=new, list=[new])], *fields(leaf))
    store.tables.load(job_id(), wider, ELEVEN, store.objects, [file])

    widened = {"inner": {"a": 1, "b": None}, "b": None}
    assert store.rows(table.name, TEN) == [row("a", TEN, outer=widened, list=[widened])]
    assert store.rows(table.name, ELEVEN) == [row("b", ELEVEN, outer=new, list=[new])]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (Column("x", "INT64", "NULLABLE"), Column("x", "STRING", "NULLABLE")),
        (Column("x", "INT64", "NULLABLE"), Column("x", "INT64", "REPEATED")),
        (Column("x", "TIMESTAMP", "NULLABLE"), Column("x", "DATETIME", "NULLABLE")),
        (
            Column("x", "STRUCT", "NULLABLE", (Column("y", "INT64", "NULLABLE"),)),
            Column("x", "STRUCT", "NULLABLE", (Column("y", "FLOAT64", "NULLABLE"),)),
        ),
    ],
)
def test_ensure__changed_type(store: Store, before: Column, after: Column) -> None:
    """The error names a column whose type has changed."""
    table = store.table(before)
    store.tables.ensure(table)
    with pytest.raises(TableStoreError, match=r"x.*type can't change"):
        store.tables.ensure(replace(table, columns=(*table.columns[:2], after)))


def test_load__replaces_one_hour(store: Store) -> None:
    """A load replaces the rows of its hour, and of no other."""
    table = store.table()
    store.tables.ensure(table)
    last = ELEVEN - timedelta(microseconds=1)
    assert store.tables.load(job_id(), table, TEN, store.objects, [store.write([row("a", TEN), row("b", last)])]) == 2
    assert store.tables.load(job_id(), table, ELEVEN, store.objects, [store.write([row("c", ELEVEN)])]) == 1
    assert (
        store.tables.load(job_id(), table, TEN, store.objects, [store.write([row("a", TEN), row("d", TEN), row("e", TEN)])])
        == 3
    )
    assert ids(store, table.name, TEN) == ["a", "d", "e"]
    assert ids(store, table.name, ELEVEN) == ["c"]


def test_load__id_of_successful_job(store: Store) -> None:
    """A job that succeeded is not run again."""
    table, first = store.table(), job_id()
    store.tables.ensure(table)
    files = [store.write([row("a", TEN), row("b", TEN)])]
    store.tables.load(first, table, TEN, store.objects, files)
    store.tables.load(job_id(), table, TEN, store.objects, [store.write([row("c", TEN)])])
    assert store.tables.load(first, table, TEN, store.objects, files) == 2
    assert ids(store, table.name) == ["c"]


def test_load__row_of_other_hour(store: Store) -> None:
    """A row of another hour fails the load, and the partition is unchanged."""
    table = store.table()
    store.tables.ensure(table)
    store.tables.load(job_id(), table, TEN, store.objects, [store.write([row("a", TEN)])])
    for time in (ELEVEN, TEN - timedelta(microseconds=1)):
        with pytest.raises(LoadJobFailed):
            store.tables.load(job_id(), table, TEN, store.objects, [store.write([row("b", TEN), row("c", time)])])
    assert ids(store, table.name) == ["a"]


@pytest.mark.parametrize("damage", [lambda data: data[:-20], lambda _: b"PK\x03\x04 no Avro", lambda _: b""])
def test_load__broken_file(store: Store, damage: object) -> None:
    """A broken file fails the load, and the partition is unchanged."""
    table = store.table()
    store.tables.ensure(table)
    store.tables.load(job_id(), table, TEN, store.objects, [store.write([row("a", TEN)])])
    whole = store.write([row("b", TEN), row("c", TEN)])
    assert callable(damage)
    broken = store.write_bytes(damage(store.objects.read(whole)[0]))
    with pytest.raises(LoadJobFailed, match=broken):
        store.tables.load(job_id(), table, TEN, store.objects, [whole, broken])
    assert ids(store, table.name) == ["a"]


def test_load__missing_file(store: Store) -> None:
    """A missing file fails the load, and the error names it."""
    table = store.table()
    store.tables.ensure(table)
    with pytest.raises(LoadJobFailed, match=r"events/not-there\.avro"):
        store.tables.load(job_id(), table, TEN, store.objects, [store.write([row("a", TEN)]), "events/not-there.avro"])
    assert ids(store, table.name) == []


def test_load__unknown_column(store: Store) -> None:
    """A column or nested field that the table lacks fails the load."""
    inner = {"type": "record", "name": "r", "fields": [{"name": "b", "type": "string"}]}
    table = store.table(Column("nested", "STRUCT", "NULLABLE", (Column("a", "STRING", "NULLABLE"),)))
    store.tables.ensure(table)
    for file in (
        store.write([row("a", TEN, name="x")], NAME),
        store.write([row("a", TEN, nested={"b": "x"})], {"name": "nested", "type": inner}),
    ):
        with pytest.raises(LoadJobFailed):
            store.tables.load(job_id(), table, TEN, store.objects, [file])
    assert ids(store, table.name) == []


def test_load__all_contract_versions(store: Store) -> None:
    """A new table has the columns of all versions of a contract, and files of each can be loaded."""

    def version(number: int, *leaves: str) -> Contract:
        fields = [{"name": leaf, "type": "int"} for leaf in leaves]
        record = {"type": "record", "name": "r", "fields": fields}
        return contract_of({"name": "inner", "type": record}, *fields, version=number)

    versions = [version(1, "old", "both"), version(2, "both", "new")]
    table = replace(table_of(versions), name=store.table().name)
    store.tables.ensure(table)
    files = []
    for number, contract in enumerate(versions):
        leaves = {field["name"]: number for field in contract.schema["fields"][1:]}
        always = {"event_type": "thing", "schema_version": contract.version, "message_id": "m"}
        never = {"sent_at": None, "unknown_fields": None, "skewed_from": None}
        values = row(f"{number}", TEN, **always, **never, **leaves, inner=leaves)
        stream = io.BytesIO()
        fastavro.writer(stream, row_schema(contract), [values])
        files.append(store.write_bytes(stream.getvalue()))
    assert store.tables.load(job_id(), table, TEN, store.objects, files) == 2
    rows = store.rows(table.name, TEN)
    assert [(loaded["old"], loaded["both"], loaded["new"]) for loaded in rows] == [(0, 0, None), (None, 1, 1)]
    assert [loaded["inner"] for loaded in rows] == [{"old": 0, "both": 0, "new": None}, {"old": None, "both": 1, "new": 1}]


def test_load__missing_required_column(store: Store) -> None:
    """A file that lacks a REQUIRED column fails the load."""
    table = store.table(Column("name", "STRING", "REQUIRED"))
    store.tables.ensure(table)
    with pytest.raises(LoadJobFailed, match="name"):
        store.tables.load(job_id(), table, TEN, store.objects, [store.write([row("a", TEN)])])


def test_load__id_of_failed_job(store: Store) -> None:
    """The id of a failed job is used up; a load with another id succeeds."""
    table, used = store.table(), job_id()
    store.tables.ensure(table)
    with pytest.raises(LoadJobFailed) as first:
        store.tables.load(used, table, TEN, store.objects, [store.write_bytes(b"broken")])
    good = [store.write([row("a", TEN)])]
    with pytest.raises(LoadJobFailed) as second:
        store.tables.load(used, table, TEN, store.objects, good)
    assert (first.value.already_failed, second.value.already_failed) == (False, True)
    assert store.tables.load(job_id(), table, TEN, store.objects, good) == 1
    assert ids(store, table.name) == ["a"]


def test_load__id_of_other_partition(store: Store) -> None:
    """An id that was used for another partition is an error."""
    table, used = store.table(), job_id()
    store.tables.ensure(table)
    store.tables.load(used, table, TEN, store.objects, [store.write([row("a", TEN)])])
    with pytest.raises(TableStoreError, match=used):
        store.tables.load(used, table, ELEVEN, store.objects, [store.write([row("b", ELEVEN)])])


def test_load__invalid_arguments(store: Store) -> None:
    """A load without files, of no full hour, or into a missing table is an error."""
    table = store.table()
    with pytest.raises(ValueError, match="file"):
        store.tables.load(job_id(), table, TEN, store.objects, [])
    with pytest.raises(ValueError, match="hour"):
        store.tables.load(job_id(), table, TEN + timedelta(minutes=1), store.objects, ["a.avro"])
    with pytest.raises(TableStoreError, match=table.name):
        store.tables.load(job_id(), table, TEN, store.objects, [store.write([row("a", TEN)])])


def test_load__different_columns(store: Store) -> None:
    """Files with different columns are loaded together."""
    table = store.table(Column("name", "STRING", "NULLABLE"), Column("size", "INT64", "NULLABLE"))
    store.tables.ensure(table)
    size = {"name": "size", "type": ["null", "long"]}
    files = [
        store.write([row("a", TEN, name="x")], NAME),
        store.write([row("b", TEN, size=7), row("c", TEN, size=None)], size),
        store.write([row("d", TEN, size=8, name="y")], size, NAME),
    ]
    assert store.tables.load(job_id(), table, TEN, store.objects, files) == 4
    assert store.rows(table.name, TEN) == [
        row("a", TEN, name="x", size=None),
        row("b", TEN, name=None, size=7),
        row("c", TEN, name=None, size=None),
        row("d", TEN, name="y", size=8),
    ]


@pytest.mark.integration
def test_row_counts__rows_and_distinct_ids(store: Store) -> None:
    """Each hour in the range has its number of rows and the tally of its distinct ids."""
    table = store.table()
    assert store.tables.row_counts(table, TEN, ELEVEN) == {}
    store.tables.ensure(table)
    assert store.tables.row_counts(table, TEN, ELEVEN) == {}

    late = ELEVEN + timedelta(minutes=59, seconds=59, microseconds=999999)
    hours: dict[datetime, list[Row]] = {
        TEN - timedelta(hours=1): [row("before", TEN - timedelta(microseconds=1))],
        TEN: [row("a", TEN), row("b", TEN), row("a", TEN)],
        ELEVEN: [row(f"żółw-{number}", late) for number in range(50)],
        TEN + timedelta(hours=5): [row("after", TEN + timedelta(hours=5))],
    }
    for hour, rows in hours.items():
        store.tables.load(job_id(), table, hour, store.objects, [store.write(rows)])

    expected = {
        TEN: RowCounts(3, Tally.of_ids(["a", "b"])),
        ELEVEN: RowCounts(50, Tally.of_ids(f"żółw-{number}" for number in range(50))),
    }
    assert store.tables.row_counts(table, TEN, TEN + timedelta(hours=4)) == expected
    assert store.tables.row_counts(table, TEN, TEN) == {TEN: expected[TEN]}


def test_load__concurrent_hours(store: Store) -> None:
    """Two threads load different hours at the same time."""
    table = store.table()
    store.tables.ensure(table)
    hours = [TEN + timedelta(hours=number) for number in range(6)]
    files = [store.write([row(f"{number}-{n}", hour) for n in range(number + 1)]) for number, hour in enumerate(hours)]
    with ThreadPoolExecutor(2) as threads:
        jobs = [
            threads.submit(store.tables.load, job_id(), table, hour, store.objects, [file])
            for hour, file in zip(hours, files, strict=True)
        ]
    assert [job.result() for job in jobs] == [1, 2, 3, 4, 5, 6]
    assert [len(store.rows(table.name, hour)) for hour in hours] == [1, 2, 3, 4, 5, 6]
