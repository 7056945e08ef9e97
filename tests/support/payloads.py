"""Decode payloads for tests: one field at a time, with rejections, and read back."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import orjson
import pytest
from fastavro import schemaless_reader

from schemas.envelope import JSON
from schemas.outcomes import Rejected, Stage
from schemas.registry.contracts import Contract
from schemas.transcoder import transcoder
from tests.support.avro_cases import Case
from tests.support.contracts import contract_of, field

DECIMAL = {"type": "bytes", "logicalType": "decimal", "precision": 6, "scale": 2}

ENUM = {"type": "enum", "name": "colour", "symbols": ["RED", "GREEN"]}

FIXED = {"type": "fixed", "name": "four", "size": 4}

UUID_TEXT = "11a3c6f1-f12d-5cae-a394-286231c8f7bd"


def logical(base: str, name: str) -> dict[str, Any]:
    return {"type": base, "logicalType": name}


def decode(contract: Contract, newest: Contract, data: bytes, content_type: str) -> tuple[dict[str, Any], str | None]:
    """Transcode a payload and return the datum that fastavro reads from the record, and the unknown fields."""
    record, unknown = transcoder(contract, newest, content_type)(data)
    buffer = BytesIO(record)
    datum: Any = schemaless_reader(buffer, newest.schema, None)
    assert buffer.tell() == len(record)
    return datum, unknown


def decode_field(avro_type: Any, value: Any) -> Any:
    """Transcode a payload whose only field is `a` and return the field's value.

    Args:
        avro_type: Avro type of the field
        value: bytes are JSON text, anything else is encoded as JSON
    """
    text = value if isinstance(value, bytes) else orjson.dumps(value)
    contract = contract_of(field("a", avro_type))
    datum, unknown = decode(contract, contract, b'{"a": %s}' % text, JSON)
    assert unknown is None
    return datum["a"]


def refusal(contract: Contract, data: bytes, content_type: str = JSON) -> Rejected:
    """Return the Rejected that the payload raises."""
    with pytest.raises(Rejected) as rejected:
        decode(contract, contract, data, content_type)
    return rejected.value


def field_refusal(avro_type: Any, value: Any) -> Rejected:
    """Return the Rejected that this value of the field `a` raises, after checking its stage and the start of its detail."""
    text = value if isinstance(value, bytes) else orjson.dumps(value)
    rejected = refusal(contract_of(field("a", avro_type)), b'{"a": %s}' % text)
    assert rejected.stage is Stage.VALIDATE
    assert rejected.detail.startswith("a: must ")
    return rejected


def contract_for(case: Case) -> Contract:
    return contract_of(*case.schema["fields"])
