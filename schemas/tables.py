"""Table schemas, derived from Avro schemas and never written twice."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from schemas.buckets import DEAD_LETTERS
from schemas.envelope import ENVELOPE_FIELDS, EVENT_ID, RECEIVED_AT
from schemas.rows import dead_letter_schema, row_schema
from schemas.shapes import expand, node, split_union
from schemas.values import kind_of

if TYPE_CHECKING:
    from schemas.contracts import Contract

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
    mode: NULLABLE, REQUIRED or REPEATED; fields: the columns of a STRUCT, empty otherwise.
    """

    name: str
    type: str
    mode: str
    fields: tuple[Column, ...] = ()
    description: str = ""


@dataclass(frozen=True)
class Table:
    """A table partitioned by the UTC hour of `partition_by`, a REQUIRED TIMESTAMP column.

    id_column names the STRING column whose values are unique in an hour and make up its fingerprint.
    """

    name: str
    columns: tuple[Column, ...]
    partition_by: str
    id_column: str


def table_of(contract: Contract) -> Table:
    """The table of an event type, as its newest contract makes it.

    REQUIRED are only the envelope's columns that are never null. The event's own are NULLABLE, even where the
    contract demands a value: a table can't gain a REQUIRED column, and a later contract may drop a field.
    """
    required = _never_null(ENVELOPE_FIELDS)
    return Table(contract.event_type, columns_of(row_schema(contract), required), RECEIVED_AT, EVENT_ID)


def dead_letters_table() -> Table:
    """The table of refused messages."""
    schema = dead_letter_schema()
    return Table(DEAD_LETTERS, columns_of(schema, _never_null(schema["fields"])), RECEIVED_AT, "message_id")


def _never_null(fields: Iterable[Mapping[str, Any]]) -> frozenset[str]:
    return frozenset(field["name"] for field in fields if not split_union(field["type"])[1])


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
    return Column(field["name"], column_type(inner), mode, fields, field.get("doc", ""))
