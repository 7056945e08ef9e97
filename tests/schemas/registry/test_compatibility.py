"""Changes between versions of a contract that are allowed, and those that are rejected."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.registry.contracts import load_contracts
from tests.support.contracts import field, problem_of_versions, record, write_contract

DECIMAL = {"type": "bytes", "logicalType": "decimal"}

A = field("a", "int")

ENUM = {"type": "enum", "name": "e", "symbols": ["A", "B"]}

MILLIS = {"type": "long", "logicalType": "timestamp-millis"}

MICROS = {"type": "long", "logicalType": "timestamp-micros"}

INCOMPATIBLE = {
    "a field without a default": ([A], [A, field("b", "int")], "reader_field_missing_default_value"),
    "another type": ([A], [field("a", "string")], "type_mismatch"),
    "a narrower type": ([field("a", "long")], [A], "type_mismatch"),
    "null no longer allowed": ([field("a", ["null", "int"])], [A], "type_mismatch"),
    "a symbol gone": ([field("a", ENUM)], [field("a", {**ENUM, "symbols": ["A"]})], "missing_enum_symbols"),
    "another size": (
        [field("a", {"type": "fixed", "name": "f", "size": 2})],
        [field("a", {"type": "fixed", "name": "f", "size": 3})],
        "fixed_size_mismatch",
    ),
    "another name of a record": (
        [field("a", record("inner", field("x", "int")))],
        [field("a", record("renamed", field("x", "int")))],
        "name_mismatch",
    ),
    "a column of another type": (
        [A],
        [field("a", "double")],
        "field a: column a (FLOAT64) conflicts with column a (INT64) of v1",
    ),
    "bytes for text": (
        [field("a", "string")],
        [field("a", "bytes")],
        "field a: column a (BYTES) conflicts with column a (STRING) of v1",
    ),
    "another unit": (
        [field("a", MILLIS)],
        [field("a", MICROS)],
        "column a (timestamp-micros) conflicts with column a (timestamp-millis)",
    ),
    "a unit where was none": (
        [field("a", "long")],
        [field("a", MICROS)],
        "column a (timestamp-micros) conflicts with column a (INT64)",
    ),
    "another scale": (
        [field("a", {**DECIMAL, "precision": 9, "scale": 2})],
        [field("a", {**DECIMAL, "precision": 9, "scale": 3})],
        "column a (decimal(9, 3)) conflicts with column a (decimal(9, 2))",
    ),
    "another case": ([A], [field("A", "int", default=0)], "field A: column A (INT64) conflicts with column a (INT64) of v1"),
    "a nested column of another type": (
        [field("a", {"type": "array", "items": record("inner", field("x", "int"))})],
        [field("a", {"type": "array", "items": record("inner", field("x", "float"))})],
        "field a.x: column a.x (FLOAT64) conflicts with column a.x (INT64) of v1",
    ),
}


@pytest.mark.parametrize("name", INCOMPATIBLE)
def test_incompatibilities__of_two_versions(tmp_path: Path, name: str) -> None:
    old, new, words = INCOMPATIBLE[name]
    assert words in problem_of_versions(tmp_path, old, new)


def test_incompatibilities__with_any_earlier_version(tmp_path: Path) -> None:
    """A version must read the events of all earlier versions, not only of the previous one."""
    problem = problem_of_versions(tmp_path, [], [field("a", "int", default=1)], [A])
    assert "can't read events of v1" in problem


def test_incompatibilities__of_a_field_that_returns(tmp_path: Path) -> None:
    """A field that is dropped and added again must keep the type of its column."""
    problem = problem_of_versions(tmp_path, [A], [], [field("a", "double", default=0.5)])
    assert "field a: column a (FLOAT64) conflicts with column a (INT64) of v1" in problem


def test_incompatibilities__allow_these_changes(tmp_path: Path) -> None:
    """A version may add, drop and widen fields, and rename them with an alias."""
    old = [field("kept", "int"), field("dropped", "int"), field("old", "string"), field("e", ENUM)]
    new = [
        field("kept", ["null", "long"]),
        field("new", "string", aliases=["old"]),
        field("added", "int", default=7),
        field("e", {**ENUM, "symbols": ["A", "B", "C"]}),
    ]
    write_contract(tmp_path, record("thing", *old), version=3)
    write_contract(tmp_path, record("thing", *new), version=9)
    assert [contract.version for contract in load_contracts(tmp_path).versions("thing")] == [3, 9]
