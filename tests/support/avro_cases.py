"""Schemas with values in three forms, made without the code under test.

The forms are JSON, the value that Apache's Avro library writes and reads, and the datum that we promise.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from io import BytesIO
from typing import Any

import avro.io
import avro.schema
from hypothesis import strategies as st

NAMES = ("alpha", "beta", "gamma", "delta")


@dataclass(frozen=True)
class Value:
    """One value in three forms."""

    json: Any
    """In a JSON payload."""
    plain: Any
    """In Apache's library."""
    datum: Any
    """In our records."""


@dataclass(frozen=True)
class Case:
    """An Avro type with a strategy for its values."""

    schema: Any
    values: st.SearchStrategy[Value]


def same(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Value]:
    """Values whose three forms are equal."""
    return values.map(lambda value: Value(value, value, value))


def logical(base: str, name: str, values: st.SearchStrategy[Value], **more: Any) -> Case:
    return Case({"type": base, "logicalType": name, **more}, values)


def cut(moment: Any) -> Any:
    """Truncate a time to milliseconds."""
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def micros_since_epoch(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1)) // timedelta(microseconds=1)  # noqa: DTZ001


def json_time(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
WALL = st.datetimes(min_value=datetime(1, 1, 3), max_value=datetime(9999, 12, 29))  # noqa: DTZ001
MOMENTS = WALL.map(lambda moment: moment.replace(tzinfo=UTC))
SINGLES = st.floats(width=32, allow_nan=False, allow_infinity=False)
BYTES = st.binary(max_size=8)


def decimals(precision: int, scale: int) -> st.SearchStrategy[Value]:
    numbers = st.integers(-(10**precision) + 1, 10**precision - 1).map(
        lambda n: Decimal((n < 0, tuple(map(int, str(abs(n)))), -scale))
    )
    return numbers.map(lambda number: Value(f"{number:f}", number, number))


SCALARS: tuple[Case, ...] = (
    Case("int", same(st.integers(-(2**31), 2**31 - 1))),
    Case("long", same(st.integers(-(2**63), 2**63 - 1))),
    Case("float", same(SINGLES)),
    Case("double", same(st.floats(allow_nan=False, allow_infinity=False))),
    Case("boolean", same(st.booleans())),
    Case("string", same(TEXT)),
    Case("bytes", BYTES.map(lambda data: Value(b64encode(data).decode(), data, data))),
    logical("int", "date", st.dates().map(lambda day: Value(day.isoformat(), day, day))),
    logical("int", "time-millis", st.times().map(cut).map(lambda clock: Value(clock.isoformat(), clock, clock))),
    logical("long", "time-micros", st.times().map(lambda clock: Value(clock.isoformat(), clock, clock))),
    logical("long", "timestamp-millis", MOMENTS.map(cut).map(lambda moment: Value(json_time(moment), moment, moment))),
    logical("long", "timestamp-micros", MOMENTS.map(lambda moment: Value(json_time(moment), moment, moment))),
    logical(
        "long",
        "local-timestamp-millis",
        WALL.map(cut).map(lambda moment: Value(moment.isoformat(), micros_since_epoch(moment) // 1000, moment)),
    ),
    logical(
        "long", "local-timestamp-micros", WALL.map(lambda moment: Value(moment.isoformat(), micros_since_epoch(moment), moment))
    ),
    logical("bytes", "decimal", decimals(12, 3), precision=12, scale=3),
    logical("bytes", "decimal", decimals(38, 9), precision=38, scale=9),
    logical("bytes", "decimal", decimals(76, 38), precision=76, scale=38),
    logical("string", "uuid", st.uuids().map(lambda uuid: Value(str(uuid), str(uuid), uuid))),
)


def named_scalars(name: str) -> tuple[Case, ...]:
    fixed = {"type": "fixed", "name": f"{name}_f", "size": 4}
    symbols = ["RED", "GREEN", "BLUE"]
    digits = {"type": "fixed", "name": f"{name}_d", "size": 6, "logicalType": "decimal", "precision": 14, "scale": 4}
    return (
        Case(digits, decimals(14, 4)),
        Case(fixed, st.binary(min_size=4, max_size=4).map(lambda data: Value(b64encode(data).decode(), data, data))),
        Case({"type": "enum", "name": f"{name}_e", "symbols": symbols}, same(st.sampled_from(symbols))),
    )


def nullable(case: Case, *, first: bool) -> Case:
    null = Value(None, None, None)
    return Case(["null", case.schema] if first else [case.schema, "null"], st.just(null) | case.values)


def joined(make: Callable[[Callable[[Value], Any]], Any]) -> Value:
    """Build a container in the three forms.

    Args:
        make: builds the container from a function that selects one form of a value
    """
    return Value(make(lambda value: value.json), make(lambda value: value.plain), make(lambda value: value.datum))


def array(items: Case) -> Case:
    lists = st.lists(items.values, max_size=3)
    return Case(
        {"type": "array", "items": items.schema}, lists.map(lambda some: joined(lambda form: [form(item) for item in some]))
    )


def mapping(values: Case) -> Case:
    maps = st.dictionaries(TEXT, values.values, max_size=3)
    return Case(
        {"type": "map", "values": values.schema},
        maps.map(lambda entries: joined(lambda form: {key: form(value) for key, value in entries.items()})),
    )


def record_case(name: str, fields: dict[str, Case]) -> Case:
    values = st.fixed_dictionaries({key: case.values for key, case in fields.items()})
    return Case(
        {"type": "record", "name": name, "fields": [{"name": key, "type": case.schema} for key, case in fields.items()]},
        values.map(lambda record: joined(lambda form: {key: form(value) for key, value in record.items()})),
    )


@st.composite
def records(draw: st.DrawFn, name: str = "thing", depth: int = 2) -> Case:
    """Any record that passes the contract check."""
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, unique=True))
    return record_case(name, {key: draw(_columns(f"{name}_{key}", depth)) for key in names})


@st.composite
def _columns(draw: st.DrawFn, name: str, depth: int) -> Case:
    shape = draw(st.sampled_from(["scalar", "nullable", "array", "map", "map of nullable"]))
    single = draw(st.sampled_from(SCALARS + named_scalars(name)))
    if depth and draw(st.booleans()):
        single = draw(records(name, depth - 1))
    if shape in ("nullable", "map of nullable"):
        single = nullable(single, first=draw(st.booleans()))
    return array(single) if shape == "array" else mapping(single) if shape.startswith("map") else single


def apache_write(schema_text: str, datum: Any) -> bytes:
    """Encode a datum in Avro binary with Apache's library."""
    buffer = BytesIO()
    avro.io.DatumWriter(avro.schema.parse(schema_text)).write(datum, avro.io.BinaryEncoder(buffer))
    return buffer.getvalue()


def apache_read(schema_text: str, data: bytes) -> Any:
    """Decode Avro binary with Apache's library, and check that it used all bytes."""
    buffer = BytesIO(data)
    datum = avro.io.DatumReader(avro.schema.parse(schema_text)).read(avro.io.BinaryDecoder(buffer))
    assert buffer.tell() == len(data)
    return datum
