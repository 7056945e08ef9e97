"""Tables of contracts: the column of each Avro type, and modes that allow later versions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from schemas.columns import Column, columns_of
from schemas.registry.contracts import load_contracts
from schemas.tables import dead_letters_table, table_of
from tests.support.contracts import contract_of, field, record


def column_of(kind: Any) -> Column:
    (column,) = columns_of(record("thing", field("a", kind)))
    return replace(column, digits=None)


def logical(base: str, name: str, **more: Any) -> dict[str, Any]:
    return {"type": base, "logicalType": name, **more}


def decimal(precision: int, scale: int) -> dict[str, Any]:
    return logical("bytes", "decimal", precision=precision, scale=scale)


TYPES: list[tuple[Any, str]] = [
    ("string", "STRING"),
    ({"type": "enum", "name": "e", "symbols": ["A"]}, "STRING"),
    (logical("string", "uuid"), "STRING"),
    ("bytes", "BYTES"),
    ({"type": "fixed", "name": "f", "size": 2}, "BYTES"),
    ("int", "INT64"),
    ({"type": "long"}, "INT64"),
    ("float", "FLOAT64"),
    ("double", "FLOAT64"),
    ("boolean", "BOOL"),
    (logical("int", "date"), "DATE"),
    (logical("int", "time-millis"), "TIME"),
    (logical("long", "time-micros"), "TIME"),
    (logical("long", "timestamp-millis"), "TIMESTAMP"),
    (logical("long", "timestamp-micros"), "TIMESTAMP"),
    (logical("long", "local-timestamp-millis"), "DATETIME"),
    (logical("long", "local-timestamp-micros"), "DATETIME"),
    (decimal(38, 9), "NUMERIC"),
    (decimal(29, 0), "NUMERIC"),
    (logical("bytes", "decimal", precision=5), "NUMERIC"),
    (decimal(39, 9), "BIGNUMERIC"),
    (decimal(38, 10), "BIGNUMERIC"),
    (decimal(30, 0), "BIGNUMERIC"),
    (decimal(76, 38), "BIGNUMERIC"),
]


@pytest.mark.parametrize(("kind", "expected"), TYPES)
def test_columns_of__an_avro_type(kind: Any, expected: str) -> None:
    """A type has the same column type alone, nullable and in an array."""
    assert column_of(kind) == Column("a", expected, "NULLABLE")
    assert column_of(["null", kind]) == Column("a", expected, "NULLABLE")
    assert column_of({"type": "array", "items": kind}) == Column("a", expected, "REPEATED")


def test_columns_of__a_record_is_a_struct() -> None:
    inner = record("inner", field("x", "int", doc="Text."), field("y", {"type": "array", "items": "string"}))
    fields = (Column("x", "INT64", "NULLABLE", description="Text."), Column("y", "STRING", "REPEATED"))
    assert column_of(inner) == Column("a", "STRUCT", "NULLABLE", fields)
    assert column_of(["null", inner]) == Column("a", "STRUCT", "NULLABLE", fields)
    assert column_of({"type": "array", "items": inner}) == Column("a", "STRUCT", "REPEATED", fields)


@pytest.mark.parametrize("values", ["int", ["null", "int"]])
def test_columns_of__a_map_is_a_repeated_struct(values: Any) -> None:
    """The struct has a key and a value."""
    fields = (Column("key", "STRING", "REQUIRED"), Column("value", "INT64", "NULLABLE"))
    assert column_of({"type": "map", "values": values}) == Column("a", "STRUCT", "REPEATED", fields)


def test_columns_of__a_map_of_records_contains_structs() -> None:
    value = Column("value", "STRUCT", "NULLABLE", (Column("x", "INT64", "NULLABLE"),))
    assert column_of({"type": "map", "values": record("inner", field("x", "int"))}).fields[1] == value


def test_columns_of__a_decimal_has_its_digits() -> None:
    amounts = [decimal(5, 2), ["null", decimal(5, 2)], {"type": "array", "items": decimal(5, 2)}]
    columns = columns_of(record("thing", *(field(f"a{number}", kind) for number, kind in enumerate(amounts))))
    assert [column.digits for column in columns] == [(5, 2)] * 3
    (column,) = columns_of(record("thing", field("a", {"type": "map", "values": logical("bytes", "decimal", precision=7)})))
    assert [nested.digits for nested in (column, *column.fields)] == [None, None, (7, 0)]


def test_table_of__has_the_columns_of_all_versions() -> None:
    """The columns of the newest version come first."""

    def point(*names: str) -> dict[str, Any]:
        return record("point", *(field(name, "int") for name in names))

    versions = [
        contract_of(field("gone", "int"), field("p", point("x", "z")), field("kept", "int")),
        contract_of(field("kept", "long", doc="Newer."), field("p", point("y", "x"))),
        contract_of(field("new", "int"), field("p", point("y")), field("kept", "long", doc="Newest.")),
    ]
    own = table_of(versions).columns[len(table_of([contract_of()]).columns) :]
    assert [(column.name, column.mode) for column in own] == [(name, "NULLABLE") for name in ("new", "p", "kept", "gone")]
    assert [column.name for column in own[1].fields] == ["y", "x", "z"]
    assert own[2].description == "Newest."


def test_columns_of__a_type_used_by_its_name() -> None:
    first, second = columns_of(record("thing", field("a", record("inner", field("x", "int"))), field("b", ["null", "inner"])))
    assert second.fields == first.fields == (Column("x", "INT64", "NULLABLE"),)


def test_table_of__requires_only_envelope_columns() -> None:
    """Only the columns of the envelope that are never null are REQUIRED."""
    table = table_of([contract_of(field("a", "int", doc="Text."), field("b", ["null", "string"]))])
    assert (table.name, table.partition_by, table.id_column) == ("thing", "received_at", "event_id")
    assert [(column.name, column.type, column.mode) for column in table.columns] == [
        ("event_id", "STRING", "REQUIRED"),
        ("event_type", "STRING", "REQUIRED"),
        ("schema_version", "INT64", "REQUIRED"),
        ("received_at", "TIMESTAMP", "REQUIRED"),
        ("sent_at", "TIMESTAMP", "NULLABLE"),
        ("message_id", "STRING", "REQUIRED"),
        ("unknown_fields", "STRING", "NULLABLE"),
        ("skewed_from", "TIMESTAMP", "NULLABLE"),
        ("a", "INT64", "NULLABLE"),
        ("b", "STRING", "NULLABLE"),
    ]
    assert table.columns[8].description == "Text."
    assert all(column.description for column in table.columns[:8])


def test_columns_of__nested_columns_are_not_required() -> None:
    """A nested column is NULLABLE even if it has the name of a REQUIRED one."""
    table = table_of([contract_of(field("a", record("inner", field("event_id", "string"))))])
    assert table.columns[-1].fields == (Column("event_id", "STRING", "NULLABLE"),)


def test_dead_letters_table__columns() -> None:
    table = dead_letters_table()
    assert (table.name, table.partition_by, table.id_column) == ("dead_letters", "received_at", "message_id")
    assert [(column.name, column.type, column.mode) for column in table.columns] == [
        ("message_id", "STRING", "REQUIRED"),
        ("event_id", "STRING", "REQUIRED"),
        ("event_type", "STRING", "NULLABLE"),
        ("received_at", "TIMESTAMP", "REQUIRED"),
        ("published_at", "TIMESTAMP", "REQUIRED"),
        ("data", "BYTES", "REQUIRED"),
        ("attributes", "STRUCT", "REPEATED"),
        ("stage", "STRING", "REQUIRED"),
        ("reason", "STRING", "REQUIRED"),
        ("detail", "STRING", "REQUIRED"),
    ]


def test_table_of__packaged_contracts_have_key_columns() -> None:
    """Each table has its partitioning column and its id column."""
    contracts = load_contracts()
    for event_type in contracts.types:
        table = table_of(contracts.versions(event_type))
        columns = {column.name: column for column in table.columns}
        assert (columns[table.partition_by].type, columns[table.partition_by].mode) == ("TIMESTAMP", "REQUIRED")
        assert columns[table.id_column].type == "STRING"
