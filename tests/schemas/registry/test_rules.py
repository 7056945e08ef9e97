"""The rules of a contract, each alone: names, types that have a column, defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from schemas.envelope import ENVELOPE_FIELDS
from schemas.registry.contracts import load_contracts
from tests.support.contracts import field, load_one, problem_of, problems_of, record, write_contract

DECIMAL = {"type": "bytes", "logicalType": "decimal"}


@pytest.mark.parametrize("name", ["Thing", "1thing", "_thing", "a-b", "a" * 101])
def test_event_type_problems__of_an_invalid_name(tmp_path: Path, name: str) -> None:
    write_contract(tmp_path, record(name.replace("-", "_").replace("1", "x")), name)
    assert any("is not a valid name of an event type" in line for line in problems_of(tmp_path))


@pytest.mark.parametrize("name", ["dead_letters", "verdicts"])
def test_event_type_problems__of_the_name_of_a_built_in_table(tmp_path: Path, name: str) -> None:
    write_contract(tmp_path, record(name), name)
    assert "is the name of a built-in table" in problems_of(tmp_path)[0]


def test_parse_problems__of_invalid_json(tmp_path: Path) -> None:
    """The problem names the line and column."""
    write_contract(tmp_path, '{"type": "record",\n oops}')
    assert "is not JSON" in problems_of(tmp_path)[0]
    assert "line 2 column 2" in problems_of(tmp_path)[0]


def test_load_contracts__rejects_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    write_contract(tmp_path, record("thing")).write_bytes(b"\xff")
    assert "can't be read" in problems_of(tmp_path)[0]


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "record", "name": "thing"},
        {"type": "record", "name": "thing", "fields": {}},
        {"type": "record", "name": "thing", "fields": [{"name": "a"}]},
        {"type": "record", "name": "thing", "fields": [{"name": "", "type": "int"}]},
        {"type": "record", "name": "thing", "fields": [{"name": "a", "type": "integer"}]},
        {"type": "record", "name": "thing", "fields": [{"name": "a", "type": "int"}, {"name": "a", "type": "int"}]},
        {"type": "record", "name": "thing", "fields": [{"name": "a", "type": ["null", "null"]}]},
        {"type": "record", "name": "thing", "fields": [{"name": "a", "type": {"type": "array"}}]},
        {
            "type": "record",
            "name": "thing",
            "fields": [{"name": "a", "type": {"type": "enum", "name": "e", "symbols": ["a", "a"]}}],
        },
        {"type": "record", "name": "thing", "fields": [{"name": "a", "type": {"type": "fixed", "name": "f", "size": "4"}}]},
        {"type": "record", "name": "thing", "fields": [{"name": "a", "type": "int", "default": "x"}]},
        42,
    ],
)
def test_parse_problems__of_invalid_avro(tmp_path: Path, schema: Any) -> None:
    write_contract(tmp_path, schema)
    assert "is not a valid Avro schema" in problems_of(tmp_path)[0]


@pytest.mark.parametrize("schema", ["string", {"type": "array", "items": "string"}, ["null", "string"]])
def test_schema_problems__of_a_schema_that_is_no_record(tmp_path: Path, schema: Any) -> None:
    write_contract(tmp_path, f'"{schema}"' if isinstance(schema, str) else schema)
    assert "must be an Avro record" in problems_of(tmp_path)[0]


def test_schema_problems__of_the_record_name(tmp_path: Path) -> None:
    """The record must be named like its folder, the event type."""
    write_contract(tmp_path, record("Thing"))
    assert "must be named like its folder, thing" in problems_of(tmp_path)[0]


def test_schema_problems__allow_a_namespace(tmp_path: Path) -> None:
    write_contract(tmp_path, {**record("thing", field("a", "int")), "namespace": "com.example"})
    assert load_contracts(tmp_path).newest("thing").schema["name"] == "com.example.thing"


@pytest.mark.parametrize("name", [column["name"] for column in ENVELOPE_FIELDS])
def test_schema_problems__of_envelope_names(tmp_path: Path, name: str) -> None:
    """A field can't have the name of an envelope's column, whatever its case."""
    assert "the envelope has a column of this name" in problem_of(tmp_path, field(name.upper(), "int"))


def test_schema_problems__allow_envelope_names_in_nested_records(tmp_path: Path) -> None:
    load_one(tmp_path, field("before", record("inner", field("event_id", "string"))))


@pytest.mark.parametrize(
    "prefix",
    [
        "_TABLE_",
        "_FILE_",
        "_PARTITION",
        "_ROW_TIMESTAMP",
        "__ROOT__",
        "_COLIDENTIFIER",
        "_CHANGE_SEQUENCE_NUMBER",
        "_CHANGE_TYPE",
        "_CHANGE_TIMESTAMP",
    ],
)
def test_schema_problems__of_reserved_prefixes(tmp_path: Path, prefix: str) -> None:
    """BigQuery's reserved prefixes are rejected in any case and at any level."""
    assert f"can't begin with {prefix}" in problem_of(tmp_path, field(f"{prefix.lower()}x", "int"))
    inner = {"type": "array", "items": record("inner", field(f"{prefix}x", "int"))}
    assert f"field a[*].{prefix}x: " in problem_of(tmp_path, field("a", inner))


@pytest.mark.parametrize("name", ["a-b", "1st", "a.b", "caf\N{LATIN SMALL LETTER E WITH ACUTE}", "a\n"])
def test_schema_problems__of_invalid_column_names(tmp_path: Path, name: str) -> None:
    """Names are checked at every level."""
    assert "letters, digits and _ only" in problem_of(tmp_path, field(name, "int"))
    assert "letters, digits and _ only" in problem_of(tmp_path, field("a", record("inner", field(name, "int"))))


def test_schema_problems__of_a_name_of_301_characters(tmp_path: Path) -> None:
    load_one(tmp_path, field("a" * 300, "int"))
    assert "at most 300 characters" in problem_of(tmp_path, field("a" * 301, "int"))


def test_schema_problems__of_names_that_differ_only_in_case(tmp_path: Path) -> None:
    """Names are compared at every level."""
    assert "differs from size in case only" in problem_of(tmp_path, field("size", "int"), field("Size", "int"))
    inner = record("inner", field("size", "int"), field("SIZE", "int"))
    assert problem_of(tmp_path, field("a", inner)).startswith("field a.SIZE: differs from size")


def test_schema_problems__of_a_description(tmp_path: Path) -> None:
    """A description must be a string of at most 1,024 characters."""
    load_one(tmp_path, field("a", "int", doc="x" * 1024))
    assert "more than 1024 characters" in problem_of(tmp_path, field("a", "int", doc="x" * 1025))
    assert "must be a string" in problem_of(tmp_path, field("a", "int", doc=["x"]))


def nested(levels: int) -> dict[str, Any]:
    kind: Any = "int"
    for level in range(levels):
        kind = record(f"r{level}", field("a", kind))
    return field("a", kind)


def test_schema_problems__of_16_levels(tmp_path: Path) -> None:
    """Records may be nested 15 levels deep."""
    load_one(tmp_path, nested(14))
    assert "deeper than 15 levels" in problem_of(tmp_path, nested(15))


NOT_COLUMNS = {
    "a union of two types": (["int", "string"], "a union must have null and one other type"),
    "a union of null and two types": (["null", "int", "string"], "a union must have null and one other type"),
    "a union of one type": (["int"], "a union must have null and one other type"),
    "null": ("null", "null alone can't be a column"),
    "a nullable array": (["null", {"type": "array", "items": "int"}], "can't be NULL"),
    "a nullable map": ([{"type": "map", "values": "int"}, "null"], "can't be NULL"),
    "an array with nulls": ({"type": "array", "items": ["null", "int"]}, "items can't be null"),
    "an array of arrays": ({"type": "array", "items": {"type": "array", "items": "int"}}, "put a record between"),
    "an array of maps": ({"type": "array", "items": {"type": "map", "values": "int"}}, "put a record between"),
    "a map of arrays": ({"type": "map", "values": {"type": "array", "items": "int"}}, "put a record between"),
    "a map of maps": ({"type": "map", "values": {"type": "map", "values": "int"}}, "put a record between"),
    "an array of null": ({"type": "array", "items": "null"}, "null alone can't be a column"),
    "a map of unions": ({"type": "map", "values": ["int", "string"]}, "a union must have null"),
    "a record without fields": (record("inner"), "a record without fields"),
    "a record within itself": (record("inner", field("next", ["null", "inner"])), "can't be recursive"),
    "a record within the event": (["null", "thing"], "can't be recursive"),
    "an empty fixed": ({"type": "fixed", "name": "f", "size": 0}, "size of 1 or more"),
    "an unknown logical type": ({"type": "long", "logicalType": "timestamp-nanos"}, "logical type timestamp-nanos"),
    "a duration": ({"type": "fixed", "name": "f", "size": 12, "logicalType": "duration"}, "logical type duration"),
    "a date as text": ({"type": "string", "logicalType": "date"}, "logical type date of string"),
    "a uuid as fixed": ({"type": "fixed", "name": "f", "size": 16, "logicalType": "uuid"}, "logical type uuid of fixed"),
    "a decimal without precision": (DECIMAL, "must have a precision"),
    "a decimal of no digits": ({**DECIMAL, "precision": 0}, "must have a precision"),
    "a scale above the precision": ({**DECIMAL, "precision": 2, "scale": 3}, "scale"),
    "a decimal of 39 whole digits": ({**DECIMAL, "precision": 39}, "like BIGNUMERIC"),
    "a decimal of 39 decimals": ({**DECIMAL, "precision": 39, "scale": 39}, "like BIGNUMERIC"),
}


@pytest.mark.parametrize("name", NOT_COLUMNS)
def test_schema_problems__of_types_without_a_column(tmp_path: Path, name: str) -> None:
    kind, words = NOT_COLUMNS[name]
    assert words in problem_of(tmp_path, field("a", kind))


COLUMNS = {
    "null first": ["null", "int"],
    "null last": ["int", "null"],
    "a nullable record": ["null", record("inner", field("a", "int"))],
    "a map with nulls": {"type": "map", "values": ["null", "int"]},
    "a map of records": {"type": "map", "values": record("inner", field("list", {"type": "array", "items": "int"}))},
    "an array of records with arrays": {
        "type": "array",
        "items": record("inner", field("a", {"type": "array", "items": "int"})),
    },
    "the widest decimal": {**DECIMAL, "precision": 76, "scale": 38},
    "a property of another tool": {"type": "string", "avro.java.string": "String"},
}


@pytest.mark.parametrize("name", COLUMNS)
def test_schema_problems__allow_these_types(tmp_path: Path, name: str) -> None:
    load_one(tmp_path, field("a", COLUMNS[name]))


def test_schema_problems__allow_a_type_by_its_name(tmp_path: Path) -> None:
    """A named type may be used again by its name."""
    load_one(tmp_path, field("a", record("inner", field("x", "int"))), field("b", "inner"), field("c", ["null", "inner"]))


WRONG_DEFAULTS = {
    "a number out of range": field("a", "int", default=2**31),
    "null for a string first": field("a", ["string", "null"], default=None),
    "a string for null first": field("a", ["null", "string"], default="x"),
    "a symbol that is none": field("a", {"type": "enum", "name": "e", "symbols": ["A"]}, default="B"),
    "a fixed of another size": field("a", {"type": "fixed", "name": "f", "size": 2}, default="abc"),
    "bytes beyond a byte": field("a", "bytes", default="\N{EURO SIGN}"),
    "a uuid that is none": field("a", {"type": "string", "logicalType": "uuid"}, default="x"),
    "a decimal with too many digits": field("a", {**DECIMAL, "precision": 2}, default="\u00ff\u0000"),
    "a record that lacks a field": field("a", record("inner", field("x", "int")), default={}),
    "an item of another type": field("a", {"type": "array", "items": "int"}, default=["x"]),
}


@pytest.mark.parametrize("name", WRONG_DEFAULTS)
def test_schema_problems__of_a_default_of_another_type(tmp_path: Path, name: str) -> None:
    assert "the default " in problem_of(tmp_path, WRONG_DEFAULTS[name])
