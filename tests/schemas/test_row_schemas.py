"""Rows in their files: the envelope first, the event's own fields after it, readable by Apache's Avro library."""

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


def test_the_envelope_comes_first_then_the_events_own_fields_in_their_order() -> None:
    schema = row_schema(contract_of(*OWN))
    names = [one["name"] for one in ENVELOPE_FIELDS]
    assert [one["name"] for one in schema["fields"]] == [*names, "a", "b", "c"]
    assert schema["name"] == "thing"
    assert schema["fields"][: len(names)] == list(ENVELOPE_FIELDS)


def test_descriptions_and_defaults_come_along() -> None:
    fields = {one["name"]: one for one in row_schema(contract_of(*OWN))["fields"]}
    assert fields["a"]["doc"] == "Text."
    assert fields["b"]["default"] is None


@pytest.mark.parametrize("contract", every_contract(), ids=lambda one: f"{one.event_type}-v{one.version}")
def test_the_row_schema_of_every_packaged_contract_is_valid_avro_in_json(contract: Contract) -> None:
    parsed = avro.schema.parse(json.dumps(row_schema(contract)))
    assert isinstance(parsed, avro.schema.RecordSchema)
    assert parsed.name == contract.event_type


def test_a_namespace_and_its_types_stay_what_they_are() -> None:
    contract = contract_of(
        field("a", {**record("inner", field("x", "int")), "namespace": "com.example"}), field("b", "com.example.inner")
    )
    avro.schema.parse(json.dumps(row_schema(contract)))


def test_a_contracts_own_namespace_stays_on_its_rows(tmp_path: Path) -> None:
    write_contract(tmp_path, {**record("thing", *OWN), "namespace": "com.example"})
    parsed = avro.schema.parse(json.dumps(row_schema(load_contracts(tmp_path).newest("thing"))))
    assert isinstance(parsed, avro.schema.RecordSchema)
    assert parsed.fullname == "com.example.thing"


def test_apaches_library_reads_a_row_whole() -> None:
    contract = contract_of(*OWN)
    row = {**ENVELOPE, "a": 5, "b": {"x": "y"}, "c": None}
    assert apache_read(json.dumps(row_schema(contract)), encoder(row_schema(contract))(row)) == row


numbers = st.integers(-(2**63), 2**63 - 1)
texts = st.text(max_size=200)


@given(texts, st.integers(1, 2**31 - 1), numbers, st.none() | numbers, texts, st.none() | texts, st.none() | numbers)
def test_an_envelope_written_by_hand_is_the_one_that_fastavro_writes(
    event_id: str, version: int, received: int, sent: int | None, message_id: str, unknown: str | None, skewed: int | None
) -> None:
    envelope = {**ENVELOPE, "event_id": event_id, "schema_version": version, "received_at": received, "sent_at": sent}
    envelope |= {"message_id": message_id, "unknown_fields": unknown, "skewed_from": skewed}
    by_hand = envelope_encoder("thing", version)(event_id, received, sent, message_id, unknown, skewed)
    assert by_hand == encoder({"type": "record", "name": "e", "fields": list(ENVELOPE_FIELDS)})(envelope)


@pytest.mark.parametrize("size", [0, 63, 64, 8191, 8192, 3_000_000])
def test_a_text_of_any_size_is_the_one_that_fastavro_writes(size: int) -> None:
    assert text("x" * size) == encoder({"type": "record", "name": "r", "fields": [field("a", "string")]})({"a": "x" * size})


def test_rows_encoded_one_after_another_do_not_mix() -> None:
    contract = contract_of(*OWN)
    encode = encoder(row_schema(contract))
    long, short = ({**ENVELOPE, "event_id": text, "a": 5, "b": None, "c": None} for text in ("x" * 1000, "y"))
    first = encode(long)
    assert encode(short) == encoder(row_schema(contract))(short)
    assert encode(long) == first


def test_a_row_that_does_not_fit_is_not_written() -> None:
    with pytest.raises((TypeError, ValueError, KeyError)):
        encoder(row_schema(contract_of(*OWN)))({**ENVELOPE, "a": "text", "b": None, "c": None})


def test_a_dead_letter_keeps_the_message_whole() -> None:
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
    assert [one["name"] for one in dead_letter_schema()["fields"]] == list(row)


def test_every_column_of_our_own_is_described() -> None:
    assert all(one.get("doc") for one in [*ENVELOPE_FIELDS, *dead_letter_schema()["fields"]])
