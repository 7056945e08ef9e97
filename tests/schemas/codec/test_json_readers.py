"""JSON values: the datums that they become, and the values that are rejected."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from schemas.outcomes import Reason
from tests.support.contracts import record
from tests.support.payloads import (
    DECIMAL,
    ENUM,
    FIXED,
    UUID_TEXT,
    decode_field,
    field_refusal,
    logical,
)

ACCEPTED: list[tuple[Any, Any, Any]] = [
    ("int", 2**31 - 1, 2**31 - 1),
    ("long", -(2**63), -(2**63)),
    ("double", 3, 3.0),
    ("double", b"1e-7", 1e-7),
    ("double", b"-0.0", -0.0),
    ("float", 3.4028234663852886e38, 3.4028234663852886e38),
    ("float", 3.40282350e38, 3.4028234663852886e38),
    ("boolean", True, True),
    ("string", "\u0000 \N{SNOWMAN}", "\u0000 \N{SNOWMAN}"),
    ("bytes", "AP/+", b"\x00\xff\xfe"),
    ("bytes", "", b""),
    (FIXED, "AAECAw==", b"\x00\x01\x02\x03"),
    (ENUM, "GREEN", "GREEN"),
    (["null", "int"], None, None),
    (["int", "null"], 5, 5),
    ({"type": "array", "items": "int"}, [1, 2], [1, 2]),
    ({"type": "map", "values": "int"}, {"x": 1}, {"x": 1}),
    (logical("int", "date"), "2013-07-01", date(2013, 7, 1)),
    (logical("int", "time-millis"), "09:30:00.123999", time(9, 30, 0, 123000)),
    (logical("long", "time-micros"), "09:30:00.1239991", time(9, 30, 0, 123999)),
    (logical("long", "time-micros"), "23:59:59", time(23, 59, 59)),
    (logical("long", "timestamp-micros"), "2013-07-01T09:30:00.5+02:00", datetime(2013, 7, 1, 7, 30, 0, 500000, UTC)),
    (logical("long", "timestamp-millis"), "1969-12-31t23:59:59.999999z", datetime(1969, 12, 31, 23, 59, 59, 999000, UTC)),
    (logical("long", "local-timestamp-micros"), "2013-07-01T09:30:00", datetime(2013, 7, 1, 9, 30)),  # noqa: DTZ001
    (DECIMAL, "-1234.50", Decimal("-1234.50")),
    (DECIMAL, "0001.500", Decimal("1.50")),
    (DECIMAL, 7, Decimal("7.00")),
    (DECIMAL, 0.1, Decimal("0.10")),
    (DECIMAL, b"1.25e2", Decimal("125.00")),
    ({**DECIMAL, "precision": 76, "scale": 38}, "9" * 38 + "." + "9" * 38, Decimal("9" * 38 + "." + "9" * 38)),
    ({**DECIMAL, "precision": 30, "scale": 0}, b"100000000000000000000", Decimal(10**20)),
    (logical("string", "uuid"), UUID_TEXT.upper(), UUID(UUID_TEXT)),
]


@pytest.mark.parametrize(("kind", "value", "expected"), ACCEPTED)
def test_readers__convert_valid_values(kind: Any, value: Any, expected: Any) -> None:
    """Each value becomes the datum of its Avro type."""
    datum = decode_field(kind, value)
    assert (type(datum), datum) == (type(expected), expected)
    assert str(datum) == str(expected)


WRONG_TYPES: list[tuple[Any, Any]] = [
    ("int", 1.0),
    ("int", True),
    ("int", "1"),
    ("int", None),
    ("long", b"1e3"),
    ("double", "1.5"),
    ("double", False),
    ("float", []),
    ("boolean", 1),
    ("boolean", "true"),
    ("string", 1),
    ("string", None),
    ("bytes", "not base64"),
    ("bytes", "AP/+A"),
    ("bytes", "AP_-"),
    ("bytes", "AP/+!"),
    ("bytes", "AP\n/+"),
    ("bytes", "\N{SNOWMAN}"),
    ("bytes", 1),
    (FIXED, [0, 1, 2, 3]),
    (ENUM, 1),
    (["null", "int"], "x"),
    ({"type": "array", "items": "int"}, {"0": 1}),
    ({"type": "array", "items": "int"}, None),
    ({"type": "map", "values": "int"}, [1]),
    (record("inner"), "x"),
    (logical("int", "date"), "20130701"),
    (logical("int", "date"), "2013-W27-1"),
    (logical("int", "date"), "2013-02-29"),
    (logical("int", "date"), 15887),
    (logical("long", "time-micros"), "9:30:00"),
    (logical("long", "time-micros"), "09:30"),
    (logical("long", "time-micros"), "25:00:00"),
    (logical("long", "time-micros"), "09:30:00Z"),
    (logical("long", "timestamp-micros"), "2013-07-01T09:30:00"),
    (logical("long", "timestamp-micros"), "2013-07-01"),
    (logical("long", "timestamp-micros"), 1372671000),
    (logical("long", "local-timestamp-micros"), "2013-07-01T09:30:00Z"),
    (logical("long", "local-timestamp-micros"), "2013-07-01T09:30:00+02:00"),
    (DECIMAL, "1e3"),
    (DECIMAL, "NaN"),
    (DECIMAL, ".5"),
    (DECIMAL, "1,5"),
    (DECIMAL, True),
    (DECIMAL, None),
    ({**DECIMAL, "precision": 38, "scale": 18}, b"0.1234567890123456"),
    ({**DECIMAL, "precision": 38, "scale": 0}, b"18446744073709551617"),
    (logical("string", "uuid"), UUID_TEXT.replace("-", "")),
    (logical("string", "uuid"), "{" + UUID_TEXT + "}"),
    (logical("string", "uuid"), 1),
]


@pytest.mark.parametrize(("kind", "value"), WRONG_TYPES)
def test_readers__reject_values_of_another_type(kind: Any, value: Any) -> None:
    assert field_refusal(kind, value).reason is Reason.WRONG_TYPE


OUT_OF_RANGE: list[tuple[Any, Any]] = [
    ("int", 2**31),
    ("int", -(2**31) - 1),
    ("int", b"99999999999999999999999"),
    ("long", 2**63),
    ("long", b"-9223372036854775809"),
    ("long", b"99999999999999999999999"),
    ("float", 3.5e38),
    ("float", -3.5e38),
    ("float", 3.4028235677973366e38),
    (FIXED, "AAEC"),
    (ENUM, "BLUE"),
    (logical("long", "timestamp-micros"), "0001-01-01T00:00:00+01:00"),
    (DECIMAL, "10000.00"),
    (DECIMAL, "1.005"),
    (DECIMAL, 0.001),
    (DECIMAL, 10000),
    (DECIMAL, b"1e300"),
    (DECIMAL, b"1e-300"),
    (DECIMAL, "0" * 101),
]


@pytest.mark.parametrize(("kind", "value"), OUT_OF_RANGE)
def test_readers__reject_values_out_of_range(kind: Any, value: Any) -> None:
    assert field_refusal(kind, value).reason is Reason.OUT_OF_RANGE
