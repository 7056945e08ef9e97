"""Columns, derived from Avro schemas and never written twice."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from typing import Any

from schemas.avro_schemas import expand, kind_of, node, split_union

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
"""The kind of an Avro type -> its column's type, as a BigQuery load makes it with useAvroLogicalTypes."""

_NUMERIC_SCALE, _NUMERIC_WHOLE_DIGITS = 9, 29
"""What NUMERIC holds, from BigQuery's documentation of decimalTargetTypes. What does not fit goes to BIGNUMERIC."""


@dataclass(frozen=True)
class Column:
    """One column in BigQuery's words.

    type: STRING, BYTES, INT64, FLOAT64, BOOL, TIMESTAMP, DATETIME, DATE, TIME, NUMERIC, BIGNUMERIC or STRUCT;
    mode: NULLABLE, REQUIRED or REPEATED; fields: the columns of a STRUCT, empty otherwise;
    digits: the precision and scale of a NUMERIC or BIGNUMERIC, None otherwise.
    """

    name: str
    type: str
    mode: str
    fields: tuple[Column, ...] = ()
    description: str = ""
    digits: tuple[int, int] | None = None


def columns_of(schema: dict[str, Any], required: Container[str] = ()) -> tuple[Column, ...]:
    """The columns of an Avro record that has passed the contract check.

    Arrays and maps are REPEATED, a map of STRUCTs of key and value. All others are NULLABLE, but for a
    map's key and the top-level columns named in `required`.
    """
    columns = (_column(field) for field in expand(schema)["fields"])
    return tuple(replace(one, mode="REQUIRED") if one.name in required and one.mode == "NULLABLE" else one for one in columns)


def column_type(schema: Mapping[str, Any]) -> str:
    """The type of the column that holds one value of an Avro type other than an array."""
    if kind_of(schema) != "decimal":
        return _TYPES[kind_of(schema)]
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
    digits = (inner["precision"], inner.get("scale", 0)) if kind_of(inner) == "decimal" else None
    return Column(field["name"], column_type(inner), mode, fields, field.get("doc", ""), digits)
