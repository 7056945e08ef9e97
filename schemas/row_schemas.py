"""Rows: the Avro schemas that files are written with, and the encoding of one row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any

from fastavro import parse_schema, schemaless_writer

from schemas.envelope import ENVELOPE_FIELDS
from schemas.registry.contracts import Contract

_MICROS = {"type": "long", "logicalType": "timestamp-micros"}


def row_schema(contract: Contract) -> dict[str, Any]:
    """The Avro schema of an event type's rows: the envelope's fields, then the contract's own, under the contract's name."""
    own = contract.schema
    fields = [dict(field) for field in ENVELOPE_FIELDS] + own["fields"]
    documentation = {"doc": own["doc"]} if "doc" in own else {}
    return {"type": "record", "name": own["name"], **documentation, "fields": fields}


def dead_letter_schema() -> dict[str, Any]:
    """The Avro schema of a refused message's row: the message whole, and why it was refused."""
    return {
        "type": "record",
        "name": "dead_letter",
        "doc": "A message that broke its contract, kept whole.",
        "fields": [
            {"name": "message_id", "type": "string", "doc": "Pub/Sub's id of the message that was refused first; unique."},
            {"name": "event_id", "type": "string", "doc": "The attribute event_id; the message id where there is none."},
            {"name": "event_type", "type": ["null", "string"], "default": None, "doc": "What the attribute event_type claims."},
            {"name": "received_at", "type": _MICROS, "doc": "When the message was received; decides the hour."},
            {"name": "published_at", "type": _MICROS, "doc": "When Pub/Sub received it."},
            {"name": "data", "type": "bytes", "doc": "The message's data, untouched."},
            {"name": "attributes", "type": {"type": "map", "values": "string"}, "doc": "The message's attributes, untouched."},
            {"name": "stage", "type": "string", "doc": "The step that refused it: envelope, decode, validate or deduplicate."},
            {"name": "reason", "type": "string", "doc": "Why, as a name that never changes."},
            {"name": "detail", "type": "string", "doc": "Where and which rule, for a human."},
        ],
    }


def encoder(schema: dict[str, Any]) -> Callable[[Mapping[str, Any]], bytes]:
    """A function that encodes one row, a mapping of every field in the schema, in Avro binary.

    It may be used by many threads. A row that lacks a field or does not fit raises what fastavro raises:
    that is a mistake in the program, as `schemas.transcoder.decode` gives datums that fit.
    """
    parsed = parse_schema(schema)

    def encode(row: Mapping[str, Any]) -> bytes:
        buffer = BytesIO()
        schemaless_writer(buffer, parsed, row)
        return buffer.getvalue()

    return encode
