"""Table schemas, derived from Avro schemas and never written twice."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from schemas.buckets import DEAD_LETTERS
from schemas.envelope import ENVELOPE_FIELDS, EVENT_ID, RECEIVED_AT
from schemas.rows import dead_letter_schema, row_schema
from schemas.shapes import expand, node, split_union
from schemas.values import kind_of

if TYPE_CHECKING:
    from schemas.contracts import Contract, Contracts

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


@dataclass(frozen=True)
class Table:
    """A table partitioned by the UTC hour of `partition_by`, a REQUIRED TIMESTAMP column.

    id_column names the STRING column whose values are unique in an hour and make up its fingerprint.
    """

    name: str
    columns: tuple[Column, ...]
    partition_by: str
    id_column: str


def tables_of(contracts: Contracts) -> dict[str, Table]:
    """Stream -> its table: of every event type, and of the refused messages."""
    return {kind: table_of(contracts.versions(kind)) for kind in contracts.types} | {DEAD_LETTERS: dead_letters_table()}


def table_of(versions: Sequence[Contract]) -> Table:
    """The table of an event type that has these versions, the lowest first: the newest one's columns, then those that a
    version has dropped since, as files that were written before have them.

    REQUIRED are only the envelope's columns that are never null. The event's own are NULLABLE, even where the
    contract demands a value: a table can't gain a REQUIRED column, and a later contract may drop a field.
    """
    required = _never_null(ENVELOPE_FIELDS)
    columns: tuple[Column, ...] = ()
    for contract in reversed(versions):
        columns = _united(columns, columns_of(row_schema(contract), required))
    return Table(versions[-1].event_type, columns, RECEIVED_AT, EVENT_ID)


def _united(newer: tuple[Column, ...], older: tuple[Column, ...]) -> tuple[Column, ...]:
    """The newer columns, and at each level after them those that only the older have. No version changes a column's type."""
    before = {column.name: column for column in older}
    both = [
        replace(column, fields=_united(column.fields, before.pop(column.name).fields)) if column.name in before else column
        for column in newer
    ]
    return (*both, *before.values())


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
    digits = (inner["precision"], inner.get("scale", 0)) if kind_of(inner) == "decimal" else None
    return Column(field["name"], column_type(inner), mode, fields, field.get("doc", ""), digits)
