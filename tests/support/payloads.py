"""Payloads for tests: decoded one field at a time, refused, and encoded again."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from schemas.contracts import Contract
from schemas.envelope import JSON
from schemas.outcomes import Rejected, Stage
from schemas.payload import decode
from schemas.rows import encoder, row_schema
from tests.support.avro_cases import Case
from tests.support.contracts import contract_of, field

DECIMAL = {"type": "bytes", "logicalType": "decimal", "precision": 6, "scale": 2}

ENUM = {"type": "enum", "name": "colour", "symbols": ["RED", "GREEN"]}

FIXED = {"type": "fixed", "name": "four", "size": 4}

UUID_TEXT = "11a3c6f1-f12d-5cae-a394-286231c8f7bd"


def logical(base: str, name: str) -> dict[str, Any]:
    return {"type": base, "logicalType": name}


def decode_field(kind: Any, value: Any) -> Any:
    """What becomes of the field `a`. value: Python's, for JSON, or JSON as text."""
    text = value if isinstance(value, bytes) else orjson.dumps(value)
    contract = contract_of(field("a", kind))
    datum, unknown = decode(contract, contract, b'{"a": %s}' % text, JSON)
    assert unknown is None
    return datum["a"]


def refusal(contract: Contract, data: bytes, content_type: str = JSON) -> Rejected:
    with pytest.raises(Rejected) as rejected:
        decode(contract, contract, data, content_type)
    return rejected.value


def field_refusal(kind: Any, value: Any) -> Rejected:
    text = value if isinstance(value, bytes) else orjson.dumps(value)
    rejected = refusal(contract_of(field("a", kind)), b'{"a": %s}' % text)
    assert rejected.stage is Stage.VALIDATE
    assert rejected.detail.startswith("a: must ")
    return rejected


def contract_for(case: Case) -> Contract:
    return contract_of(*case.schema["fields"])


def encoded(contract: Contract, datum: dict[str, Any]) -> bytes:
    """The datum's own part of a row, by the encoder that writes our files."""
    envelope = {
        "event_id": "",
        "event_type": "",
        "schema_version": 0,
        "received_at": datetime(1970, 1, 1, tzinfo=UTC),
        "sent_at": None,
        "message_id": "",
        "unknown_fields": None,
        "skewed_from": None,
    }
    data = encoder(row_schema(contract))({**envelope, **datum})
    assert data[:8] == bytes(8)
    return data[8:]
