"""Tables: what the columns of a stream are, and how it is partitioned."""

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
