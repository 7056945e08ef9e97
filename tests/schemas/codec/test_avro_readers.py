"""Avro payloads that are rejected: truncated, written with another schema, or out of range."""

from __future__ import annotations

from typing import Any

import pytest

from schemas.envelope import AVRO
from schemas.outcomes import Reason, Stage
from tests.support.avro_cases import apache_write
from tests.support.contracts import contract_of, field
from tests.support.payloads import (
    DECIMAL,
    ENUM,
    logical,
    refusal,
)


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("string", b"\x06ab"),
        ("string", b"\x02\xff"),
        ("string", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
        ("bytes", b"\x80\x80\x80\x80\x80\x80\x02abc"),
        ("double", b"\x00\x00"),
        (ENUM, b"\x04"),
        (["null", "int"], b"\x04"),
        ({"type": "array", "items": "int"}, b"\x04\x02"),
        ({"type": "map", "values": "int"}, b"\x02\x02k"),
        ("int", b"\x02\x00"),
        ("int", b"\x80"),
    ],
)
def test_transcoder__rejects_broken_avro(kind: Any, data: bytes) -> None:
    """Truncated data, data of another schema, and trailing bytes are rejected."""
    rejected = refusal(contract_of(field("a", kind)), data, AVRO)
    assert (rejected.stage, rejected.reason) == (Stage.DECODE, Reason.BROKEN_AVRO)


def long_bytes(number: int) -> bytes:
    return apache_write('"long"', number)


AVRO_OUT_OF_RANGE: list[tuple[Any, bytes]] = [
    ("int", long_bytes(2**31)),
    (logical("int", "date"), long_bytes(2**31 - 1)),
    (logical("int", "date"), long_bytes(-800_000)),
    (logical("int", "time-millis"), long_bytes(86_400_000)),
    (logical("long", "time-micros"), long_bytes(-1)),
    (logical("long", "timestamp-micros"), long_bytes(2**62)),
    (logical("long", "local-timestamp-millis"), long_bytes(-(2**62))),
    (DECIMAL, b"\x06\x0f\x42\x40"),
]


@pytest.mark.parametrize(("kind", "data"), AVRO_OUT_OF_RANGE)
def test_readers__reject_values_outside_the_logical_type(kind: Any, data: bytes) -> None:
    """The detail names the field."""
    rejected = refusal(contract_of(field("a", kind)), data, AVRO)
    assert (rejected.stage, rejected.reason) == (Stage.VALIDATE, Reason.OUT_OF_RANGE)
    assert rejected.detail.startswith("a: must ")


def test_readers__reject_a_string_that_is_no_uuid() -> None:
    rejected = refusal(contract_of(field("a", logical("string", "uuid"))), b"\x02x", AVRO)
    assert (rejected.stage, rejected.reason) == (Stage.VALIDATE, Reason.WRONG_TYPE)


def test_readers__reject_a_decimal_of_a_megabyte() -> None:
    """The size decides: converting the number would take hours."""
    data = apache_write('"bytes"', b"\x7f" * 2**20)
    assert refusal(contract_of(field("a", DECIMAL)), data, AVRO).detail == "a: must have at most 6 digits"
