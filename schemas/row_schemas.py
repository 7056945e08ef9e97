"""The Avro schemas of rows in data files, and the encoding of a single row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any

from fastavro import parse_schema, schemaless_writer

from schemas.envelope import ENVELOPE_FIELDS
from schemas.registry.contracts import Contract

_MICROS = {"type": "long", "logicalType": "timestamp-micros"}


def row_schema(contract: Contract) -> dict[str, Any]:
    """Return the Avro schema of an event's row: the fields of the envelope, then those of the contract."""
    schema = contract.schema
    fields = [dict(field) for field in ENVELOPE_FIELDS] + schema["fields"]
    documentation = {"doc": schema["doc"]} if "doc" in schema else {}
    return {"type": "record", "name": schema["name"], **documentation, "fields": fields}


def dead_letter_schema() -> dict[str, Any]:
    """Return the Avro schema of a dead letter's row: the unchanged message, and why it was rejected."""
    return {
        "type": "record",
        "name": "dead_letter",
        "doc": "A message or event that broke its contract, stored unchanged.",
        "fields": [
            {"name": "message_id", "type": "string", "doc": "Pub/Sub's id of the first rejected message. Unique."},
            {"name": "event_id", "type": "string", "doc": "The attribute event_id; the message id if it is absent."},
            {"name": "event_type", "type": ["null", "string"], "default": None, "doc": "The attribute event_type."},
            {"name": "received_at", "type": _MICROS, "doc": "Time of receipt. Decides the hour."},
            {"name": "published_at", "type": _MICROS, "doc": "Pub/Sub's publish time."},
            {"name": "data", "type": "bytes", "doc": "The data of the message, unchanged."},
            {"name": "attributes", "type": {"type": "map", "values": "string"}, "doc": "The attributes, unchanged."},
            {"name": "stage", "type": "string", "doc": "Rejecting step: envelope, decode, validate or deduplicate."},
            {"name": "reason", "type": "string", "doc": "The broken rule, by a name that never changes."},
            {"name": "detail", "type": "string", "doc": "The field and the broken rule, in words."},
        ],
    }


def encoder(schema: dict[str, Any]) -> Callable[[Mapping[str, Any]], bytes]:
    """Return a thread-safe function that encodes one row, a mapping with every field of the schema, in Avro binary.

    fastavro raises an exception for a row that does not fit the schema. That is a bug of the caller, which has to
    validate rows first.
    """
    parsed = parse_schema(schema)

    def encode(row: Mapping[str, Any]) -> bytes:
        buffer = BytesIO()
        schemaless_writer(buffer, parsed, row)
        return buffer.getvalue()

    return encode
