"""Tables follow from contracts: a column for every type, and the modes that let a table live through many versions."""

from __future__ import annotations

from typing import Any

import pytest

from schemas.contracts import load_contracts
from schemas.tables import Column, columns_of, dead_letters_table, table_of
from tests.support.contracts import contract_of, field, record


def column_of(kind: Any) -> Column:
    (column,) = columns_of(record("thing", field("a", kind)))
    return column


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
def test_a_type_has_its_column_alone_nullable_and_repeated(kind: Any, expected: str) -> None:
    assert column_of(kind) == Column("a", expected, "NULLABLE")
    assert column_of(["null", kind]) == Column("a", expected, "NULLABLE")
    assert column_of({"type": "array", "items": kind}) == Column("a", expected, "REPEATED")


def test_a_record_is_a_struct() -> None:
    inner = record("inner", field("x", "int", doc="Text."), field("y", {"type": "array", "items": "string"}))
    fields = (Column("x", "INT64", "NULLABLE", description="Text."), Column("y", "STRING", "REPEATED"))
    assert column_of(inner) == Column("a", "STRUCT", "NULLABLE", fields)
    assert column_of(["null", inner]) == Column("a", "STRUCT", "NULLABLE", fields)
    assert column_of({"type": "array", "items": inner}) == Column("a", "STRUCT", "REPEATED", fields)


@pytest.mark.parametrize("values", ["int", ["null", "int"]])
def test_a_map_is_a_repeated_struct_of_key_and_value(values: Any) -> None:
    fields = (Column("key", "STRING", "REQUIRED"), Column("value", "INT64", "NULLABLE"))
    assert column_of({"type": "map", "values": values}) == Column("a", "STRUCT", "REPEATED", fields)


def test_a_map_of_records_holds_structs() -> None:
    value = Column("value", "STRUCT", "NULLABLE", (Column("x", "INT64", "NULLABLE"),))
    assert column_of({"type": "map", "values": record("inner", field("x", "int"))}).fields[1] == value


def test_a_type_used_by_its_name_has_the_same_columns() -> None:
    first, second = columns_of(record("thing", field("a", record("inner", field("x", "int"))), field("b", ["null", "inner"])))
    assert second.fields == first.fields == (Column("x", "INT64", "NULLABLE"),)


def test_an_event_types_table_demands_only_what_the_envelope_always_has() -> None:
    table = table_of(contract_of(field("a", "int", doc="Text."), field("b", ["null", "string"])))
    assert (table.name, table.partition_by, table.id_column) == ("thing", "received_at", "event_id")
    assert [(one.name, one.type, one.mode) for one in table.columns] == [
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
    assert all(one.description for one in table.columns[:8])


def test_the_name_of_a_required_column_demands_nothing_below_the_top() -> None:
    table = table_of(contract_of(field("a", record("inner", field("event_id", "string")))))
    assert table.columns[-1].fields == (Column("event_id", "STRING", "NULLABLE"),)


def test_the_table_of_dead_letters() -> None:
    table = dead_letters_table()
    assert (table.name, table.partition_by, table.id_column) == ("dead_letters", "received_at", "message_id")
    assert [(one.name, one.type, one.mode) for one in table.columns] == [
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


def test_every_packaged_contract_has_a_table_whose_key_columns_are_there() -> None:
    contracts = load_contracts()
    for event_type in contracts.types:
        table = table_of(contracts.newest(event_type))
        columns = {one.name: one for one in table.columns}
        assert (columns[table.partition_by].type, columns[table.partition_by].mode) == ("TIMESTAMP", "REQUIRED")
        assert columns[table.id_column].type == "STRING"
