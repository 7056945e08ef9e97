"""Columns in DuckDB's words, and what a table there lacks of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from schemas.columns import Column
from schemas.tables import Table
from storage.tables.base import TableStoreError

_TYPES = {
    "STRING": "VARCHAR",
    "BYTES": "BLOB",
    "INT64": "BIGINT",
    "FLOAT64": "DOUBLE",
    "BOOL": "BOOLEAN",
    "TIMESTAMP": "TIMESTAMP WITH TIME ZONE",
    "DATETIME": "TIMESTAMP",
    "DATE": "DATE",
    "TIME": "TIME",
}

_MAX_DIGITS = 38
"""Of a DECIMAL. No type of DuckDB's counts with more, so such numbers are kept whole as text."""


def quote(name: str) -> str:
    """The name as an identifier in SQL."""
    return '"' + name.replace('"', '""') + '"'


def column_sql(column: Column) -> str:
    """The column as CREATE TABLE takes it. NOT NULL is kept at the top only: DuckDB has none inside a STRUCT."""
    return f"{_column(column)}{' NOT NULL' if column.mode == 'REQUIRED' else ''}"


def missing_sql(table: Table, live: Mapping[str, Any]) -> Iterator[str]:
    """What ADD COLUMN takes, for each column and nested field that `live` (name -> DuckDB's type) lacks.

    Added ones can be null. Raises TableStoreError when a type has changed.
    """
    for column in table.columns:
        if column.name in live:
            yield from _missing(table.name, column, quote(column.name), live[column.name])
        else:
            yield f"{_column(column)}{' DEFAULT []' if column.mode == 'REPEATED' else ''}"


def _missing(table: str, column: Column, path: str, live: Any) -> Iterator[str]:
    repeated = live.id == "list"
    kind = live.children[0][1] if repeated else live
    if repeated != (column.mode == "REPEATED") or (kind.id == "struct") != (column.type == "STRUCT"):
        raise _changed(table, path, live, column)
    if column.type != "STRUCT":
        if str(kind) != _scalar_type(column):
            raise _changed(table, path, live, column)
        return
    fields = dict(kind.children)
    inside = f"{path}.element" if repeated else path
    for field in column.fields:
        if field.name in fields:
            yield from _missing(table, field, f"{inside}.{quote(field.name)}", fields[field.name])
        else:
            yield f"{inside}.{_column(field)}"


def _changed(table: str, path: str, live: Any, column: Column) -> TableStoreError:
    return TableStoreError(
        f"table {table}: column {path} is {live} there and {_type(column)} now. A type can't change: "
        "give the contract's field another name, or load into another table"
    )


def _column(column: Column) -> str:
    return f"{quote(column.name)} {_type(column)}"


def _type(column: Column) -> str:
    if column.type == "STRUCT":
        kind = f"STRUCT({', '.join(_column(field) for field in column.fields)})"
    else:
        kind = _scalar_type(column)
    return f"{kind}[]" if column.mode == "REPEATED" else kind


def _scalar_type(column: Column) -> str:
    if column.digits is None:
        return _TYPES[column.type]
    precision, scale = column.digits
    return f"DECIMAL({precision},{scale})" if precision <= _MAX_DIGITS else "VARCHAR"
