"""Rows in data files: the fields of the envelope, then those of the event, readable by Apache's Avro library."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import avro.schema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.codec.avro_binary import envelope_encoder, text
from schemas.envelope import ENVELOPE_FIELDS
from schemas.registry.contracts import Contract, load_contracts
from schemas.row_schemas import dead_letter_schema, encoder, row_schema
from tests.support.avro_cases import apache_read
from tests.support.contracts import contract_of, field, record, write_contract

NOW = datetime(2026, 1, 31, 9, 30, 0, 123456, UTC)
ENVELOPE: dict[str, Any] = {
    "event_id": "one",
    "event_type": "thing",
    "schema_version": 1,
    "received_at": NOW,
    "sent_at": None,
    "message_id": "7",
    "unknown_fields": '{"x":1}',
    "skewed_from": NOW,
}
OWN = (
    field("a", "int", doc="Text."),
    field("b", ["null", record("inner", field("x", "string"))], default=None),
    field("c", ["null", "inner"], default=None),
)


def every_contract() -> list[Contract]:
    contracts = load_contracts()
    return [contract for event_type in contracts.types for contract in contracts.versions(event_type)]


def test_row_schema__has_the_envelope_first() -> None:
    """The event's own fields follow in their order."""
    schema = row_schema(contract_of(*OWN))
    names = [column["name"] for column in ENVELOPE_FIELDS]
    assert [column["name"] for column in schema["fields"]] == [*names, "a", "b", "c"]
    assert schema["name"] == "thing"
    assert schema["fields"][: len(names)] == list(ENVELOPE_FIELDS)


def test_row_schema__keeps_descriptions_and_defaults() -> None:
    fields = {column["name"]: column for column in row_schema(contract_of(*OWN))["fields"]}
    assert fields["a"]["doc"] == "Text."
    assert fields["b"]["default"] is None


@pytest.mark.parametrize("contract", every_contract(), ids=lambda contract: f"{contract.event_type}-v{contract.version}")
def test_row_schema__is_valid_avro(contract: Contract) -> None:
    """The schema of every packaged contract can be written as JSON and parsed by Apache's library."""
    parsed = avro.schema.parse(json.dumps(row_schema(contract)))
    assert isinstance(parsed, avro.schema.RecordSchema)
    assert parsed.name == contract.event_type


def test_row_schema__keeps_the_namespaces_of_types() -> None:
    contract = contract_of(
        field("a", {**record("inner", field("x", "int")), "namespace": "com.example"}), field("b", "com.example.inner")
    )
    avro.schema.parse(json.dumps(row_schema(contract)))


def test_row_schema__keeps_the_namespace_of_the_contract(tmp_path: Path) -> None:
    write_contract(tmp_path, {**record("thing", *OWN), "namespace": "com.example"})
    parsed = avro.schema.parse(json.dumps(row_schema(load_contracts(tmp_path).newest("thing"))))
    assert isinstance(parsed, avro.schema.RecordSchema)
    assert parsed.fullname == "com.example.thing"


def test_encoder__writes_rows_that_apache_reads() -> None:
    """Apache's Avro library reads every field of a row."""
    contract = contract_of(*OWN)
    row = {**ENVELOPE, "a": 5, "b": {"x": "y"}, "c": None}
    assert apache_read(json.dumps(row_schema(contract)), encoder(row_schema(contract))(row)) == row


numbers = st.integers(-(2**63), 2**63 - 1)
texts = st.text(max_size=200)


@given(texts, st.integers(1, 2**31 - 1), numbers, st.none() | numbers, texts, st.none() | texts, st.none() | numbers)
def test_envelope_encoder__writes_the_bytes_of_fastavro(
    event_id: str, version: int, received: int, sent: int | None, message_id: str, unknown: str | None, skewed: int | None
) -> None:
    envelope = {**ENVELOPE, "event_id": event_id, "schema_version": version, "received_at": received, "sent_at": sent}
    envelope |= {"message_id": message_id, "unknown_fields": unknown, "skewed_from": skewed}
    by_hand = envelope_encoder("thing", version)(event_id, received, sent, message_id, unknown, skewed)
    assert by_hand == encoder({"type": "record", "name": "e", "fields": list(ENVELOPE_FIELDS)})(envelope)


@pytest.mark.parametrize("size", [0, 63, 64, 8191, 8192, 3_000_000])
def test_text__writes_the_bytes_of_fastavro(size: int) -> None:
    assert text("x" * size) == encoder({"type": "record", "name": "r", "fields": [field("a", "string")]})({"a": "x" * size})


def test_encoder__keeps_rows_apart() -> None:
    """A row does not contain bytes of the previous one."""
    contract = contract_of(*OWN)
    encode = encoder(row_schema(contract))
    long, short = ({**ENVELOPE, "event_id": text, "a": 5, "b": None, "c": None} for text in ("x" * 1000, "y"))
    first = encode(long)
    assert encode(short) == encoder(row_schema(contract))(short)
    assert encode(long) == first


def test_encoder__rejects_a_row_that_does_not_fit() -> None:
    with pytest.raises((TypeError, ValueError, KeyError)):
        encoder(row_schema(contract_of(*OWN)))({**ENVELOPE, "a": "text", "b": None, "c": None})


def test_dead_letter_schema__keeps_the_whole_message() -> None:
    row = {
        "message_id": "7",
        "event_id": "one",
        "event_type": None,
        "received_at": NOW,
        "published_at": NOW,
        "data": b"\x00\xff",
        "attributes": {"event_type": "", "x": "y"},
        "stage": "envelope",
        "reason": "no_type",
        "detail": "there is no attribute event_type",
    }
    assert apache_read(json.dumps(dead_letter_schema()), encoder(dead_letter_schema())(row)) == row
    assert [column["name"] for column in dead_letter_schema()["fields"]] == list(row)


def test_schemas__describe_every_column() -> None:
    assert all(column.get("doc") for column in [*ENVELOPE_FIELDS, *dead_letter_schema()["fields"]])
