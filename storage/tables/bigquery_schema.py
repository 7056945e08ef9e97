"""Convert columns to schema fields of BigQuery, and merge new columns into the schema of a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from google.cloud.bigquery import SchemaField

from schemas.columns import Column
from storage.tables.base import TableStoreError

_OLD_NAMES = {"INTEGER": "INT64", "FLOAT": "FLOAT64", "BOOLEAN": "BOOL", "RECORD": "STRUCT"}
"""Type names in responses of BigQuery's API, and the names of the same types in its SQL."""


def to_field(column: Column, added: bool = False) -> SchemaField:
    """Return the schema field of a column.

    Args:
        column: The column.
        added: Whether it is added to an existing table, which accepts no REQUIRED columns: it becomes NULLABLE then.
    """
    return SchemaField.from_api_repr(_resource(column, added))


def _resource(column: Column, added: bool) -> dict[str, Any]:
    mode = "NULLABLE" if added and column.mode == "REQUIRED" else column.mode
    resource: dict[str, Any] = {"name": column.name, "type": column.type, "mode": mode}
    if column.description:
        resource["description"] = column.description
    if column.fields:
        resource["fields"] = [_resource(field, added) for field in column.fields]
    return resource


def merged(table: str, live: Sequence[SchemaField], columns: Sequence[Column]) -> list[SchemaField]:
    """Merge columns into the schema of a table.

    Columns that are no longer REQUIRED become NULLABLE, and columns that the table lacks are appended.

    Args:
        table: Name of the table, for errors.
        live: Schema of the existing table.
        columns: Columns that it has to have.

    Returns:
        The new schema. It equals `live` if nothing has to change.

    Raises:
        TableStoreError: A column exists with another type.
    """
    return _merged(f"table {table}: column ", live, columns)


def _merged(place: str, live: Sequence[SchemaField], columns: Sequence[Column]) -> list[SchemaField]:
    wanted = {column.name: column for column in columns}
    kept = [_widened(place, field, wanted.pop(field.name, None)) for field in live]
    return kept + [to_field(column, added=True) for column in wanted.values()]


def _widened(place: str, field: SchemaField, column: Column | None) -> SchemaField:
    resource = field.to_api_repr()
    mode = field.mode
    if column is None:
        return SchemaField.from_api_repr({**resource, "mode": "NULLABLE"}) if mode == "REQUIRED" else field
    live_type = _OLD_NAMES.get(field.field_type, field.field_type)
    if live_type != column.type or (mode == "REPEATED") != (column.mode == "REPEATED"):
        raise TableStoreError(
            f"{place}{field.name} is {mode} {live_type} in the table, but {column.mode} {column.type} in the contract, and a"
            " type can't change. What to do: rename the field in the contract, or load into another table"
        )
    fields = _merged(f"{place}{field.name}.", field.fields, column.fields)
    relaxed = mode == "REQUIRED" and column.mode != "REQUIRED"
    if not relaxed and fields == list(field.fields):
        return field
    changed = {"mode": "NULLABLE" if relaxed else mode}
    nested = {"fields": [nested.to_api_repr() for nested in fields]} if fields else {}
    return SchemaField.from_api_repr({**resource, **changed, **nested})
