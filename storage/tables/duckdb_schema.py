"""SQL of DuckDB for columns, and for the columns that a table lacks."""

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
"""Most digits of a DECIMAL. Numbers with more are stored as text, because DuckDB has no exact type for them."""


def quote(name: str) -> str:
    """Quote a name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def column_sql(column: Column) -> str:
    """Return the definition of a column for CREATE TABLE. Nested fields are nullable: DuckDB has no NOT NULL in a STRUCT."""
    return f"{_column(column)}{' NOT NULL' if column.mode == 'REQUIRED' else ''}"


def missing_sql(table: Table, live: Mapping[str, Any]) -> Iterator[str]:
    """Yield the definition for ADD COLUMN of each column and nested field that the table lacks. All are nullable.

    Args:
        table: The table as it has to be.
        live: DuckDB type of each existing column, by name.

    Raises:
        TableStoreError: A column exists with another type.
    """
    for column in table.columns:
        if column.name in live:
            yield from _missing(table.name, column, quote(column.name), live[column.name])
        else:
            yield f"{_column(column)}{' DEFAULT []' if column.mode == 'REPEATED' else ''}"


def _missing(table: str, column: Column, path: str, live: Any) -> Iterator[str]:
    repeated = live.id == "list"
    item_type = live.children[0][1] if repeated else live
    if repeated != (column.mode == "REPEATED") or (item_type.id == "struct") != (column.type == "STRUCT"):
        raise _changed(table, path, live, column)
    if column.type != "STRUCT":
        if str(item_type) != _scalar_type(column):
            raise _changed(table, path, live, column)
        return
    fields = dict(item_type.children)
    inside = f"{path}.element" if repeated else path
    for field in column.fields:
        if field.name in fields:
            yield from _missing(table, field, f"{inside}.{quote(field.name)}", fields[field.name])
        else:
            yield f"{inside}.{_column(field)}"


def _changed(table: str, path: str, live: Any, column: Column) -> TableStoreError:
    return TableStoreError(
        f"table {table}: column {path} is {live} in the table, but {_type(column)} in the contract, and a type can't change."
        " What to do: rename the field in the contract, or load into another table"
    )


def _column(column: Column) -> str:
    return f"{quote(column.name)} {_type(column)}"


def _type(column: Column) -> str:
    if column.type == "STRUCT":
        item_type = f"STRUCT({', '.join(_column(field) for field in column.fields)})"
    else:
        item_type = _scalar_type(column)
    return f"{item_type}[]" if column.mode == "REPEATED" else item_type


def _scalar_type(column: Column) -> str:
    if column.digits is None:
        return _TYPES[column.type]
    precision, scale = column.digits
    return f"DECIMAL({precision},{scale})" if precision <= _MAX_DIGITS else "VARCHAR"
