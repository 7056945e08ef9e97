"""Columns of tables, derived from Avro schemas."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from typing import Any

from schemas.avro_schemas import avro_type_of, expand, node, split_union

_TYPES = {
    "string": "STRING",
    "enum": "STRING",
    "uuid": "STRING",
    "bytes": "BYTES",
    "fixed": "BYTES",
    "int": "INT64",
    "long": "INT64",
    "float": "FLOAT64",
    "double": "FLOAT64",
    "boolean": "BOOL",
    "date": "DATE",
    "time-millis": "TIME",
    "time-micros": "TIME",
    "timestamp-millis": "TIMESTAMP",
    "timestamp-micros": "TIMESTAMP",
    "local-timestamp-millis": "DATETIME",
    "local-timestamp-micros": "DATETIME",
    "record": "STRUCT",
    "map": "STRUCT",
}
"""Avro type -> type of its column, as in a BigQuery load with useAvroLogicalTypes."""

_NUMERIC_SCALE, _NUMERIC_WHOLE_DIGITS = 9, 29
"""Digits after and before the point of a NUMERIC (BigQuery's documentation of decimalTargetTypes).

Decimals that do not fit become BIGNUMERIC.
"""


@dataclass(frozen=True)
class Column:
    """A column of a table, in BigQuery's terms."""

    name: str

    type: str
    """STRING, BYTES, INT64, FLOAT64, BOOL, TIMESTAMP, DATETIME, DATE, TIME, NUMERIC, BIGNUMERIC or STRUCT."""

    mode: str
    """NULLABLE, REQUIRED or REPEATED."""

    fields: tuple[Column, ...] = ()
    """The columns of a STRUCT; empty for other types."""

    description: str = ""

    digits: tuple[int, int] | None = None
    """Precision and scale of a NUMERIC or BIGNUMERIC; None for other types."""


def columns_of(schema: dict[str, Any], required: Container[str] = ()) -> tuple[Column, ...]:
    """Return the columns for an Avro record that has passed the contract check.

    Arrays and maps are REPEATED; a map is a REPEATED STRUCT of key and value. The key of a map is REQUIRED, and so are the
    top-level columns named in `required`. All other columns are NULLABLE.
    """
    columns = (_column(field) for field in expand(schema)["fields"])
    return tuple(
        replace(column, mode="REQUIRED") if column.name in required and column.mode == "NULLABLE" else column
        for column in columns
    )


def column_type(schema: Mapping[str, Any]) -> str:
    """Return the type of the column for values of an Avro type other than an array."""
    if avro_type_of(schema) != "decimal":
        return _TYPES[avro_type_of(schema)]
    scale = schema.get("scale", 0)
    fits = scale <= _NUMERIC_SCALE and schema["precision"] - scale <= _NUMERIC_WHOLE_DIGITS
    return "NUMERIC" if fits else "BIGNUMERIC"


def _column(field: Mapping[str, Any]) -> Column:
    inner = node(split_union(field["type"])[0])
    mode = "REPEATED" if inner["type"] in ("array", "map") else "NULLABLE"
    if inner["type"] == "array":
        inner = node(inner["items"])
    fields: tuple[Column, ...] = ()
    if inner["type"] == "record":
        fields = tuple(map(_column, inner["fields"]))
    elif inner["type"] == "map":
        fields = (Column("key", "STRING", "REQUIRED"), _column({"name": "value", "type": inner["values"]}))
    digits = (inner["precision"], inner.get("scale", 0)) if avro_type_of(inner) == "decimal" else None
    return Column(field["name"], column_type(inner), mode, fields, field.get("doc", ""), digits)
