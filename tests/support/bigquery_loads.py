"""Load jobs from Avro into one partition, and rows in responses, as BigQuery documents them.

https://cloud.google.com/bigquery/docs/loading-data-cloud-storage-avro and, for a job's fields,
https://cloud.google.com/bigquery/docs/reference/rest/v2/Job#JobConfigurationLoad
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from datetime import UTC, date, datetime, time
from typing import Any
from uuid import UUID

import fastavro

Json = dict[str, Any]

_CANONICAL = {"INT64": "INTEGER", "FLOAT64": "FLOAT", "BOOL": "BOOLEAN", "STRUCT": "RECORD"}
_PRIMITIVES = {
    "boolean": "BOOLEAN",
    "int": "INTEGER",
    "long": "INTEGER",
    "float": "FLOAT",
    "double": "FLOAT",
    "string": "STRING",
    "enum": "STRING",
    "bytes": "BYTES",
    "fixed": "BYTES",
    "record": "RECORD",
}
_LOGICAL = {
    "date": {"DATE"},
    "time-millis": {"TIME"},
    "time-micros": {"TIME"},
    "timestamp-millis": {"TIMESTAMP"},
    "timestamp-micros": {"TIMESTAMP"},
    "local-timestamp-millis": {"DATETIME"},
    "local-timestamp-micros": {"DATETIME"},
    "decimal": {"NUMERIC", "BIGNUMERIC"},
    "uuid": {"STRING"},
}
_LOAD: dict[str, Any] = {
    "sourceUris": None,
    "destinationTable": None,
    "schema": None,
    "sourceFormat": "AVRO",
    "writeDisposition": "WRITE_TRUNCATE",
    "createDisposition": "CREATE_NEVER",
    "useAvroLogicalTypes": True,
    "decimalTargetTypes": ["NUMERIC", "BIGNUMERIC"],
}


class JobError(Exception):
    """A job that fails, with BigQuery's reason."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def load(configuration: Json, fields: list[Json], by: str, partition: str, read: Callable[[str], bytes]) -> list[Json]:
    """Return the rows of a load job's files.

    Args:
        configuration: the job's `load` configuration
        fields: schema of the table
        by: the partitioning column
        partition: `YYYYMMDDHH`
        read: returns the bytes of a gs:// URI or raises KeyError

    Raises:
        JobError: the job fails, without any effect
    """
    for key, value in configuration.items():
        if key not in _LOAD or _LOAD[key] not in (None, value):
            raise JobError("notImplemented", f"this server does not implement {key}={value} in a load")
    if configuration.keys() != _LOAD.keys() or len(partition) != 10:
        raise JobError("notImplemented", f"this server loads only into one hour's partition, with all of {sorted(_LOAD)} set")
    if normal_schema(configuration["schema"]["fields"]) != fields:
        raise JobError("invalid", "Provided Schema does not match Table.")
    if len(configuration["sourceUris"]) > 10_000:
        raise JobError("invalid", "Too many sources provided.")
    rows: list[Json] = []
    for uri in configuration["sourceUris"]:
        try:
            data = read(uri)
        except KeyError:
            raise JobError("notFound", f"Not found: URI {uri}") from None
        try:
            reader = fastavro.reader(io.BytesIO(data))
            schema, records = reader.writer_schema, list(reader)
        except Exception as error:  # fastavro has no error of its own
            raise JobError("invalid", f"The Apache Avro library failed to read data. File: {uri}") from error
        _check_record(schema, fields, uri)
        rows += [_row(record, fields) for record in records]
    for row in rows:
        if row[by] is None or f"{row[by]:%Y%m%d%H}" != partition:
            raise JobError("invalid", f"Some rows belong to different partitions rather than destination partition {partition}")
    return rows


def _check_record(schema: Any, fields: list[Json], place: str) -> None:
    """Check the columns of a file against those of the table, by name. A nullable column may be missing from the file."""
    in_file = {field["name"]: field["type"] for field in schema["fields"]}
    in_table = {field["name"] for field in fields}
    if in_file.keys() - in_table:
        raise JobError("invalid", f"{place}: no such field: {min(in_file.keys() - in_table)}")
    for field in fields:
        if field["name"] in in_file:
            _check(in_file[field["name"]], field, f"{place}.{field['name']}")
        elif field["mode"] == "REQUIRED":
            raise JobError("invalid", f"{place}: Required field {field['name']} is missing")


def _check(schema: Any, field: Json, place: str) -> None:
    if isinstance(schema, list):
        if field["mode"] == "REQUIRED":
            raise JobError("invalid", f"{place} is specified as REQUIRED in provided schema but is NULLABLE in the file")
        schema = next(branch for branch in schema if branch != "null")
    schema = schema if isinstance(schema, dict) else {"type": schema}
    if (schema["type"] in ("array", "map")) != (field["mode"] == "REPEATED"):
        raise JobError("invalid", f"{place} has changed mode")
    if schema["type"] == "array":
        _check(schema["items"], {**field, "mode": "NULLABLE"}, place)
        return
    if schema["type"] == "map":
        pair = [{"name": "key", "type": "string"}, {"name": "value", "type": schema["values"]}]
        schema = {"type": "record", "fields": pair}
    if field["type"] not in _LOGICAL.get(schema.get("logicalType", ""), {_PRIMITIVES.get(schema["type"])}):
        raise JobError("invalid", f"{place} has changed type from {field['type']}")
    if field["type"] == "RECORD":
        _check_record(schema, field["fields"], place)


def _row(record: Any, fields: list[Json]) -> Json:
    return {field["name"]: _value(record.get(field["name"]), field) for field in fields}


def _value(value: Any, field: Json) -> Any:
    if field["mode"] == "REPEATED":
        items = [{"key": key, "value": item} for key, item in value.items()] if isinstance(value, dict) else value or []
        return [_value(item, {**field, "mode": "NULLABLE"}) for item in items]
    if isinstance(value, dict):
        return _row(value, field["fields"])
    return str(value) if isinstance(value, UUID) else value


def normal_schema(fields: list[Json]) -> list[Json]:
    """Return the fields as BigQuery does in responses: with a mode, and with the legacy names of types."""
    return [
        {
            **field,
            "type": _CANONICAL.get(field["type"], field["type"]),
            "mode": field.get("mode", "NULLABLE"),
            **({"fields": normal_schema(field["fields"])} if field.get("fields") else {}),
        }
        for field in fields
    ]


def check_schema_change(old: list[Json], new: list[Json]) -> str | None:
    """Return the API's reason to refuse a change from `old` to `new`, or None if it is allowed."""
    before, after = ({field["name"]: field for field in fields} for fields in (old, new))
    if removed := before.keys() - after.keys():
        return f"Field {min(removed)} is missing in new schema"
    for name, field in after.items():
        if name not in before:
            if field["mode"] == "REQUIRED":
                return f"Cannot add required fields to an existing schema. (field: {name})"
            continue
        previous = before[name]
        if previous["type"] != field["type"]:
            return f"Field {name} has changed type from {previous['type']} to {field['type']}"
        if previous["mode"] != field["mode"] and (previous["mode"], field["mode"]) != ("REQUIRED", "NULLABLE"):
            return f"Field {name} has changed mode from {previous['mode']} to {field['mode']}"
        if problem := check_schema_change(previous.get("fields", []), field.get("fields", [])):
            return problem
    return None


def encode_row(fields: list[Json], row: Json) -> Json:
    """Encode a row as tabledata.list and getQueryResults do, timestamps as integer microseconds.

    The row may be older than a column.
    """
    return {"f": [{"v": _encoded(field, row.get(field["name"]))} for field in fields]}


def _encoded(field: Json, value: Any) -> Any:
    if field["mode"] == "REPEATED":
        return [{"v": _encoded({**field, "mode": "NULLABLE"}, item)} for item in value or ()]
    if value is None:
        return None
    if field["type"] == "RECORD":
        return encode_row(field["fields"], value)
    if isinstance(value, bool):
        return str(value).lower()
    if field["type"] == "TIMESTAMP":
        return str((value - datetime(1970, 1, 1, tzinfo=UTC)) // datetime.resolution)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, date | time):
        return value.isoformat()
    return str(value)
