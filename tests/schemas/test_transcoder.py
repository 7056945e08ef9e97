"""Whole payloads: format, paths in details, size, and unknown fields."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import orjson
import pytest

from schemas.envelope import AVRO, JSON, MAX_PAYLOAD_BYTES
from schemas.outcomes import Reason, Stage
from schemas.registry.contracts import load_contracts
from tests.support.contracts import contract_of, field, record
from tests.support.payloads import decode, refusal

FLIGHTS = Path(__file__).parents[1] / "data" / "flights.ndjson.gz"

NESTED = contract_of(
    field("tracks", {"type": "array", "items": record("track", field("length", "int"))}),
    field("labels", {"type": "map", "values": record("label", field("text", "string"))}),
    field("playlist", ["null", record("playlist", field("owner", record("owner", field("id", "long"))))]),
)

WHOLE: dict[str, Any] = {
    "tracks": [{"length": 1}, {"length": 2}],
    "labels": {"k": {"text": "x"}},
    "playlist": {"owner": {"id": 1}},
}

PLACES = [
    ({"tracks": [{"length": 1}, {"length": "SECRET"}]}, Reason.WRONG_TYPE, "tracks[1].length: must be an integer"),
    ({"tracks": [{"length": 1}, {}]}, Reason.MISSING_FIELD, "tracks[1].length: must be present"),
    ({"tracks": ["SECRET"]}, Reason.WRONG_TYPE, "tracks[0]: must be an object"),
    ({"labels": {"SECRET": {"text": 1}}}, Reason.WRONG_TYPE, "labels[*].text: must be a string"),
    (
        {"playlist": {"owner": {"id": 2**63}}},
        Reason.OUT_OF_RANGE,
        f"playlist.owner.id: must be between {-(2**63)} and {2**63 - 1}",
    ),
]


@pytest.mark.parametrize(("change", "reason", "detail"), PLACES)
def test_transcoder__names_the_field_and_the_rule(change: dict[str, Any], reason: Reason, detail: str) -> None:
    """The detail contains no value of the payload."""
    rejected = refusal(NESTED, orjson.dumps({**WHOLE, **change}))
    assert (rejected.stage, rejected.reason, rejected.detail) == (Stage.VALIDATE, reason, detail)


def test_transcoder__rejects_a_missing_field() -> None:
    rejected = refusal(contract_of(field("a", "int")), b"{}")
    assert (rejected.stage, rejected.reason, rejected.detail) == (Stage.VALIDATE, Reason.MISSING_FIELD, "a: must be present")


NOT_JSON = [
    b"nothing",
    b'{"a": 1',
    b"{'a': 1}",
    b'{"a": NaN}',
    b'{"a": Infinity}',
    b'{"a": 1e999}',
    b'{"a": 1} x',
    b"\xef\xbb\xbf{}",
]

NOT_JSON += [
    b"[]",
    b"null",
    b'"text"',
    b"1",
    b'{"a": "\\ud800"}',
    b"[" * 2000 + b"]" * 2000,
    b'{"x":' * 300 + b"1" + b"}" * 300,
]


@pytest.mark.parametrize("data", NOT_JSON)
def test_transcoder__rejects_data_that_are_no_json_object(data: bytes) -> None:
    rejected = refusal(contract_of(field("a", "double", default=0)), data)
    assert (rejected.stage, rejected.reason) == (Stage.DECODE, Reason.NOT_JSON)


def test_transcoder__rejects_invalid_utf8() -> None:
    """The detail names the position of the first invalid byte."""
    rejected = refusal(contract_of(field("a", "string")), b'{"a": "SECRET \xff"}')
    assert (rejected.stage, rejected.reason, rejected.detail) == (
        Stage.DECODE,
        Reason.INVALID_UTF8,
        "byte 14 of the payload is not UTF-8",
    )


@pytest.mark.parametrize("content_type", [JSON, AVRO])
def test_transcoder__rejects_an_empty_payload(content_type: str) -> None:
    rejected = refusal(contract_of(), b"", content_type)
    assert (rejected.stage, rejected.reason) == (Stage.DECODE, Reason.EMPTY_PAYLOAD)


def test_transcoder__rejects_a_payload_above_the_limit() -> None:
    """A payload of exactly the limit is accepted."""
    contract = contract_of(field("a", "string"))
    text = b'{"a": "%s"}' % (b"x" * (MAX_PAYLOAD_BYTES - 9))
    assert len(text) == MAX_PAYLOAD_BYTES
    decode(contract, contract, text, JSON)
    rejected = refusal(contract, text + b" ")
    assert (rejected.stage, rejected.reason) == (Stage.DECODE, Reason.PAYLOAD_TOO_LARGE)


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "Application/JSON", " application/json ;x=y"])
def test_transcoder__content_types_of_json(content_type: str) -> None:
    """Case and parameters are ignored."""
    contract = contract_of(field("a", "int"))
    assert decode(contract, contract, b'{"a": 1}', content_type) == ({"a": 1}, None)


@pytest.mark.parametrize("content_type", ["application/avro", "avro/binary", "AVRO/binary; x=y"])
def test_transcoder__content_types_of_avro(content_type: str) -> None:
    contract = contract_of(field("a", "int"))
    assert decode(contract, contract, b"\x02", content_type) == ({"a": 1}, None)


@pytest.mark.parametrize("content_type", ["", "json", "text/plain", "application/jsonx", "application/json, text/plain"])
def test_transcoder__rejects_other_content_types(content_type: str) -> None:
    rejected = refusal(contract_of(field("a", "int")), b'{"a": 1}', content_type)
    assert (rejected.stage, rejected.reason) == (Stage.ENVELOPE, Reason.UNKNOWN_CONTENT_TYPE)


def test_transcoder__uses_the_last_of_two_equal_names() -> None:
    contract = contract_of(field("a", "int"))
    assert decode(contract, contract, b'{"a": 1, "a": 2}', JSON) == ({"a": 2}, None)


def test_transcoder__keeps_unknown_fields() -> None:
    """Unknown fields are nested as in the payload."""
    payload = {
        "tracks": [{"length": 1}, {"length": 2, "isrc": "QZ"}],
        "labels": {"k": {"text": "x", "more": [1, {"deep": None}]}, "l": {"text": "y"}},
        "playlist": {"owner": {"id": 1, "name": "n"}, "mood": "x"},
        "extra": 1.5,
    }
    datum, unknown = decode(NESTED, NESTED, orjson.dumps(payload), JSON)
    assert datum == {
        "tracks": [{"length": 1}, {"length": 2}],
        "labels": {"k": {"text": "x"}, "l": {"text": "y"}},
        "playlist": {"owner": {"id": 1}},
    }
    assert unknown is not None
    assert json.loads(unknown) == {
        "tracks": {"1": {"isrc": "QZ"}},
        "labels": {"k": {"more": [1, {"deep": None}]}},
        "playlist": {"owner": {"name": "n"}, "mood": "x"},
        "extra": 1.5,
    }


def test_transcoder__has_no_unknown_fields_for_known_ones() -> None:
    assert decode(NESTED, NESTED, orjson.dumps({**WHOLE, "playlist": None}), JSON)[1] is None
    assert decode(NESTED, NESTED, orjson.dumps(WHOLE), JSON)[1] is None


def test_transcoder__leaves_real_events_unchanged() -> None:
    contracts = load_contracts()
    with gzip.open(FLIGHTS) as lines:
        events = [json.loads(line) for line in lines]
    assert len(events) == 5884
    for event in events:
        contract = contracts.get(event["event_type"], None)
        assert decode(contract, contract, json.dumps(event["payload"]).encode(), JSON) == (event["payload"], None)
