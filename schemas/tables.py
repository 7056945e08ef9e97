"""Tables of streams: columns and partitioning."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from schemas.avro_schemas import split_union
from schemas.buckets import DEAD_LETTERS
from schemas.columns import Column, columns_of
from schemas.envelope import ENVELOPE_FIELDS, EVENT_ID, RECEIVED_AT
from schemas.registry.contracts import Contract, Contracts
from schemas.row_schemas import dead_letter_schema, row_schema


@dataclass(frozen=True)
class Table:
    """The table of a stream, partitioned by UTC hour."""

    name: str
    columns: tuple[Column, ...]

    partition_by: str
    """The column, a REQUIRED TIMESTAMP, whose hour decides the partition."""

    id_column: str
    """The STRING column that is unique within an hour, and from which the hour's fingerprint is computed."""


def tables_of(contracts: Contracts) -> dict[str, Table]:
    """Return the table of each stream: of every event type, and of the dead letters."""
    tables = {event_type: table_of(contracts.versions(event_type)) for event_type in contracts.types}
    return tables | {DEAD_LETTERS: dead_letters_table()}


def table_of(versions: Sequence[Contract]) -> Table:
    """Return the table of an event type.

    Its columns are those of the newest version, followed by the columns that only older versions have. Data files of
    older versions still contain these.

    Only those columns of the envelope that are never null are REQUIRED. The event's own columns are NULLABLE, even if the
    contract requires a value, since a table can't gain a REQUIRED column and a later version may drop a field.

    Args:
        versions: All contracts of the event type, the lowest version first.
    """
    required = _never_null(ENVELOPE_FIELDS)
    columns: tuple[Column, ...] = ()
    for contract in reversed(versions):
        columns = _merge(columns, columns_of(row_schema(contract), required))
    return Table(versions[-1].event_type, columns, RECEIVED_AT, EVENT_ID)


def _merge(newer: tuple[Column, ...], older: tuple[Column, ...]) -> tuple[Column, ...]:
    """Append the columns that only `older` has to `newer`, at each level. No version changes the type of a column."""
    remaining = {column.name: column for column in older}
    merged = [
        replace(column, fields=_merge(column.fields, remaining.pop(column.name).fields)) if column.name in remaining else column
        for column in newer
    ]
    return (*merged, *remaining.values())


def dead_letters_table() -> Table:
    """Return the table of the dead letters."""
    schema = dead_letter_schema()
    return Table(DEAD_LETTERS, columns_of(schema, _never_null(schema["fields"])), RECEIVED_AT, "message_id")


def _never_null(fields: Iterable[Mapping[str, Any]]) -> frozenset[str]:
    return frozenset(field["name"] for field in fields if not split_union(field["type"])[1])
