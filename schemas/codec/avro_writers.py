"""Writers: a schema is compiled once into functions that check a value and write it as Avro binary, in one go.

What a value of each kind may be is said by its reader (`schemas.codec.readers.Makers`); the bytes are made here. Any Avro
library could do that from a datum: this way there is none in between, and a flat event costs less than half the time.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from datetime import date
from io import BytesIO
from typing import Any

from fastavro import parse_schema, schemaless_writer

from schemas.avro_schemas import expand, kind_of, node, split_union
from schemas.codec.avro_binary import LENGTHS, long, text
from schemas.codec.avro_readers import FROM_DEFAULT
from schemas.codec.readers import Makers, Reader, Unfit
from schemas.envelope import micros
from schemas.outcomes import Reason

Writer = Callable[[Any], bytes]
"""Takes a value, gives its Avro binary form, and raises Unfit when the value breaks the type."""

_ABSENT = object()
_EPOCH_DAY = date(1970, 1, 1).toordinal()
_END = b"\x00"
"""Ends the items of an array or a map."""


def writer_of(schema: Any, makers: Makers, when_absent: Mapping[str, bytes] | None = None) -> Writer:
    """Compiles a record's schema. The writer takes an object.

    A field that is absent takes its default; without one, null if it may be null. Fields that the schema does not know are
    passed over. when_absent: bytes for fields of the record itself that are never looked for.
    """
    return _record_writer(expand(schema), makers, when_absent or {})


def default_bytes(field: Mapping[str, Any]) -> bytes:
    """A field's default in Avro binary; the field's type must be expanded. Raises Unfit when it does not fit the type."""
    return _writer(field["type"], FROM_DEFAULT)(field["default"])


def _writer(schema: Any, makers: Makers) -> Writer:
    inner, nullable = split_union(schema)
    if nullable:
        return _nullable_writer(schema, inner, makers)
    inner = node(inner)
    if inner["type"] == "record":
        return _record_writer(inner, makers, {})
    if inner["type"] == "array":
        return _array_writer(_writer(inner["items"], makers))
    if inner["type"] == "map":
        return _map_writer(_writer(inner["values"], makers))
    return _leaf_writer(inner, makers[kind_of(inner)](inner))


def _leaf_writer(schema: Mapping[str, Any], read: Reader) -> Writer:
    encode = _encoder(schema)
    if kind_of(schema) == "string":
        return _text_writer(read)
    return lambda value: encode(read(value))


def _text_writer(read: Reader) -> Writer:
    """By far the most usual kind: `encoding.text`, in a call less."""

    def write(value: Any) -> bytes:
        data = (value if type(value) is str else read(value)).encode()
        size = len(data)
        return (LENGTHS[size] if size < 1 << 13 else long(size)) + data

    return write


def _encoder(schema: Mapping[str, Any]) -> Callable[[Any], bytes]:
    """From what a reader of the type gives to bytes."""
    kind = kind_of(schema)
    if kind in _ENCODERS:
        return _ENCODERS[kind]
    if kind == "enum":
        return {symbol: long(at) for at, symbol in enumerate(schema["symbols"])}.__getitem__
    parsed = parse_schema({key: value for key, value in schema.items() if not key.startswith("__")})

    def encode(datum: Any) -> bytes:
        buffer = BytesIO()
        schemaless_writer(buffer, parsed, datum)
        return buffer.getvalue()

    return encode


_ENCODERS: Mapping[str, Callable[[Any], bytes]] = {
    "int": long,
    "long": long,
    "float": struct.Struct("<f").pack,
    "double": struct.Struct("<d").pack,
    "boolean": lambda datum: b"\x01" if datum else b"\x00",
    "string": text,
    "uuid": text,
    "bytes": lambda datum: long(len(datum)) + datum,
    "fixed": lambda datum: datum,
    "date": lambda datum: long(datum.toordinal() - _EPOCH_DAY),
    "timestamp-millis": lambda datum: long(micros(datum) // 1000),
    "timestamp-micros": lambda datum: long(micros(datum)),
}
"""The kinds that are written by hand; the others are rare, and fastavro's."""


def _nullable_writer(schema: Any, inner: Any, makers: Makers) -> Writer:
    write = _writer(inner, makers)
    null, present = (b"\x00", b"\x02") if node(schema[0])["type"] == "null" else (b"\x02", b"\x00")
    return lambda value: null if value is None else present + write(value)


def _record_writer(schema: Mapping[str, Any], makers: Makers, given: Mapping[str, bytes]) -> Writer:
    fields = tuple(
        (_ABSENT, text, _always(given[field["name"]]))  # a name that no object has
        if field["name"] in given
        else (field["name"], _writer(field["type"], makers), _when_absent(field, makers))
        for field in schema["fields"]
    )

    def write(value: Any) -> bytes:
        if type(value) is not dict:
            raise Unfit(Reason.WRONG_TYPE, "must be an object")
        get = value.get
        pieces: list[bytes] = []
        append = pieces.append
        try:
            for name, write_field, when_absent in fields:
                item = get(name, _ABSENT)
                append(write_field(item) if item is not _ABSENT else when_absent())
        except Unfit as unfit:
            unfit.steps.append(f".{name}")
            raise
        return b"".join(pieces)

    return write


def _when_absent(field: Mapping[str, Any], makers: Makers) -> Callable[[], bytes]:
    if "default" in field:
        return _always(default_bytes(field))
    if split_union(field["type"])[1]:
        return _always(_writer(field["type"], makers)(None))
    return _missing


def _always(data: bytes) -> Callable[[], bytes]:
    return lambda: data


def _missing() -> bytes:
    raise Unfit(Reason.MISSING_FIELD, "must be there")


def _array_writer(write_item: Writer) -> Writer:
    def write(value: Any) -> bytes:
        if type(value) is not list:
            raise Unfit(Reason.WRONG_TYPE, "must be an array")
        if not value:
            return _END
        pieces = [long(len(value))]
        append = pieces.append
        try:
            for item in value:
                append(write_item(item))
        except Unfit as unfit:
            unfit.steps.append(f"[{len(pieces) - 1}]")
            raise
        append(_END)
        return b"".join(pieces)

    return write


def _map_writer(write_item: Writer) -> Writer:
    def write(value: Any) -> bytes:
        if type(value) is not dict:
            raise Unfit(Reason.WRONG_TYPE, "must be an object")
        if not value:
            return _END
        try:
            items = [text(key) + write_item(item) for key, item in value.items()]
        except Unfit as unfit:
            unfit.steps.append("[*]")  # not the key: it belongs to the payload
            raise
        return b"".join((long(len(items)), *items, _END))

    return write
