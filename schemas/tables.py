"""Table schemas, derived from Avro schemas and never written twice."""

from __future__ import annotations

from dataclasses import dataclass


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
