"""Payloads without some fields, and payloads of older versions, as datums of the newest contract."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from schemas.envelope import AVRO, JSON
from schemas.outcomes import Reason
from tests.support.avro_cases import apache_write
from tests.support.contracts import contract_of, field, record
from tests.support.payloads import (
    DECIMAL,
    ENUM,
    FIXED,
    UUID_TEXT,
    decode,
    field_refusal,
    logical,
    refusal,
)

DEFAULTS: list[tuple[dict[str, Any], Any]] = [
    (field("a", "int", default=7), 7),
    (field("a", "double", default=7), 7.0),
    (field("a", ["null", "int"], default=None), None),
    (field("a", ["int", "null"], default=7), 7),
    (field("a", ["null", "int"]), None),
    (field("a", ENUM, default="RED"), "RED"),
    (field("a", "bytes", default="\u00ff\u0000"), b"\xff\x00"),
    (field("a", FIXED, default="\u00ff\u0000ab"), b"\xff\x00ab"),
    (field("a", logical("int", "date"), default=0), date(1970, 1, 1)),
    (field("a", logical("int", "time-millis"), default=1), time(0, 0, 0, 1000)),
    (field("a", logical("long", "timestamp-micros"), default=-1), datetime(1969, 12, 31, 23, 59, 59, 999999, UTC)),
    (field("a", logical("long", "local-timestamp-millis"), default=1), datetime(1970, 1, 1, 0, 0, 0, 1000)),  # noqa: DTZ001
    (field("a", DECIMAL, default="\u00ff"), Decimal("-0.01")),
    (field("a", logical("string", "uuid"), default=UUID_TEXT), UUID(UUID_TEXT)),
    (field("a", {"type": "array", "items": "int"}, default=[1]), [1]),
    (field("a", {"type": "map", "values": "bytes"}, default={"k": "\u00ff"}), {"k": b"\xff"}),
    (field("a", record("inner", field("x", "int"), field("y", "int", default=2)), default={"x": 1}), {"x": 1, "y": 2}),
]


@pytest.mark.parametrize(("with_default", "expected"), DEFAULTS)
def test_transcoder__absent_field_takes_its_default(with_default: dict[str, Any], expected: Any) -> None:
    """Without a default it takes null, if null is allowed."""
    contract = contract_of(with_default)
    assert decode(contract, contract, b"{}", JSON) == ({"a": expected}, None)


@pytest.mark.parametrize(("with_default", "expected"), [case for case in DEFAULTS if "default" in case[0]])
def test_transcoder__new_field_takes_its_default(with_default: dict[str, Any], expected: Any) -> None:
    """A payload of an older version lacks the field."""
    old, newest = contract_of(field("b", "int")), contract_of(field("b", "int"), with_default, version=2)
    datum, unknown = decode(old, newest, b'{"b": 1}', JSON)
    assert (datum, unknown) == ({"a": expected, "b": 1}, None)


def test_transcoder__null_is_no_absent_field() -> None:
    assert field_refusal("int", None).reason is Reason.WRONG_TYPE
    assert refusal(contract_of(field("a", "int", default=7)), b'{"a": null}').reason is Reason.WRONG_TYPE


OLD = contract_of(
    field("kept", "int"),
    field("old_name", "string"),
    field("dropped", logical("long", "timestamp-micros")),
    field("gone_bytes", "bytes"),
    field("list", {"type": "array", "items": record("item", field("x", "int"), field("y", "int"))}),
)

NEWEST = contract_of(
    field("added", {"type": "array", "items": "int"}, default=[]),
    field("kept", ["null", "long"]),
    field("new_name", "string", aliases=["old_name"]),
    field("list", {"type": "array", "items": record("item", field("x", "int"))}),
    version=2,
)

RESOLVED = {"added": [], "kept": 1, "new_name": "n", "list": [{"x": 2}]}


def test_transcoder__resolves_an_older_version() -> None:
    """The payload is read with its own schema. Fields that were dropped since are kept as unknown fields."""
    dropped = {"dropped": "2013-07-01T00:00:00Z", "gone_bytes": "AP8="}
    payload = {"kept": 1, "old_name": "n", **dropped, "list": [{"x": 2, "y": 3}], "u": 4}
    datum, unknown = decode(OLD, NEWEST, json.dumps(payload).encode(), JSON)
    assert datum == RESOLVED
    assert unknown is not None
    assert json.loads(unknown) == {**dropped, "u": 4, "list": {"0": {"y": 3}}}


def test_transcoder__resolves_an_older_version_in_avro() -> None:
    plain = {
        "kept": 1,
        "old_name": "n",
        "dropped": datetime(2013, 7, 1, tzinfo=UTC),
        "gone_bytes": b"\x00\xff",
        "list": [{"x": 2, "y": 3}],
    }
    datum, unknown = decode(OLD, NEWEST, apache_write(json.dumps(OLD.schema), plain), AVRO)
    assert datum == RESOLVED
    assert unknown is not None
    assert json.loads(unknown) == {"dropped": "2013-07-01T00:00:00+00:00", "gone_bytes": "AP8=", "list": {"0": {"y": 3}}}


def test_transcoder__ignores_newer_fields_in_an_older_version() -> None:
    """A field that only the newest version has takes its default."""
    old, newest = contract_of(field("a", "int")), contract_of(field("a", "int"), field("b", "int", default=0), version=2)
    assert decode(old, newest, b'{"a": 1, "b": 5}', JSON)[0] == {"a": 1, "b": 0}
