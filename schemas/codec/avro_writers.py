"""Writers of Avro values: check a value and encode it as Avro binary in one pass.

Each schema is compiled once into functions. The readers of the Avro types (`schemas.codec.readers.ReaderFactories`) decide
which values are valid, and this module encodes them. An Avro library could do that, but only from the datum of a whole
record. Without this datum, a flat event takes less than half the time.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from datetime import date
from io import BytesIO
from typing import Any

from fastavro import parse_schema, schemaless_writer

from schemas.avro_schemas import avro_type_of, expand, node, split_union
from schemas.codec.avro_binary import LENGTHS, long, text
from schemas.codec.avro_readers import FROM_DEFAULT
from schemas.codec.readers import InvalidValue, Reader, ReaderFactories
from schemas.envelope import micros
from schemas.outcomes import Reason

Writer = Callable[[Any], bytes]
"""A function that returns a value in Avro binary. Raises InvalidValue if the value breaks its type."""

_ABSENT = object()
_EPOCH_DAY = date(1970, 1, 1).toordinal()
_END = b"\x00"
"""The end of an array's or map's items."""


def writer_of(schema: Any, readers: ReaderFactories, constants: Mapping[str, bytes] | None = None) -> Writer:
    """Compile a writer for a record's schema. The writer takes a dict.

    An absent field takes its default, or null if it has no default but may be null. Keys that are not in the schema are
    ignored.

    Args:
        constants: Field name -> encoded value. The writer does not look up these top-level fields in the dict.
    """
    return _record_writer(expand(schema), readers, constants or {})


def default_bytes(field: Mapping[str, Any]) -> bytes:
    """Return a field's default in Avro binary.

    Args:
        field: A field of an expanded schema.

    Raises:
        InvalidValue: The default does not fit the type.
    """
    return _writer(field["type"], FROM_DEFAULT)(field["default"])


def _writer(schema: Any, readers: ReaderFactories) -> Writer:
    inner, nullable = split_union(schema)
    if nullable:
        return _nullable_writer(schema, inner, readers)
    inner = node(inner)
    if inner["type"] == "record":
        return _record_writer(inner, readers, {})
    if inner["type"] == "array":
        return _array_writer(_writer(inner["items"], readers))
    if inner["type"] == "map":
        return _map_writer(_writer(inner["values"], readers))
    return _leaf_writer(inner, readers[avro_type_of(inner)](inner))


def _leaf_writer(schema: Mapping[str, Any], read: Reader) -> Writer:
    encode = _encoder(schema)
    if avro_type_of(schema) == "string":
        return _string_writer(read)
    return lambda value: encode(read(value))


def _string_writer(read: Reader) -> Writer:
    """Return a writer of strings, by far the most frequent type. `text` is inlined, which saves a call."""

    def write(value: Any) -> bytes:
        data = (value if type(value) is str else read(value)).encode()
        size = len(data)
        return (LENGTHS[size] if size < 1 << 13 else long(size)) + data

    return write


def _encoder(schema: Mapping[str, Any]) -> Callable[[Any], bytes]:
    """Return a function that encodes the datums that the type's reader returns."""
    avro_type = avro_type_of(schema)
    if avro_type in _ENCODERS:
        return _ENCODERS[avro_type]
    if avro_type == "enum":
        return {symbol: long(index) for index, symbol in enumerate(schema["symbols"])}.__getitem__
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
"""Encoders of the frequent types. The other types are encoded by fastavro."""


def _nullable_writer(schema: Any, inner: Any, readers: ReaderFactories) -> Writer:
    write = _writer(inner, readers)
    null, present = (b"\x00", b"\x02") if node(schema[0])["type"] == "null" else (b"\x02", b"\x00")
    return lambda value: null if value is None else present + write(value)


def _record_writer(schema: Mapping[str, Any], readers: ReaderFactories, constants: Mapping[str, bytes]) -> Writer:
    fields = tuple(
        (_ABSENT, text, _always(constants[field["name"]]))  # No dict has the key _ABSENT, so the constant is always used.
        if field["name"] in constants
        else (field["name"], _writer(field["type"], readers), _when_absent(field, readers))
        for field in schema["fields"]
    )

    def write(value: Any) -> bytes:
        if type(value) is not dict:
            raise InvalidValue(Reason.WRONG_TYPE, "must be an object")
        get = value.get
        pieces: list[bytes] = []
        append = pieces.append
        try:
            for name, write_field, when_absent in fields:
                item = get(name, _ABSENT)
                append(write_field(item) if item is not _ABSENT else when_absent())
        except InvalidValue as invalid:
            invalid.steps.append(f".{name}")
            raise
        return b"".join(pieces)

    return write


def _when_absent(field: Mapping[str, Any], readers: ReaderFactories) -> Callable[[], bytes]:
    if "default" in field:
        return _always(default_bytes(field))
    if split_union(field["type"])[1]:
        return _always(_writer(field["type"], readers)(None))
    return _missing


def _always(data: bytes) -> Callable[[], bytes]:
    return lambda: data


def _missing() -> bytes:
    raise InvalidValue(Reason.MISSING_FIELD, "must be present")


def _array_writer(write_item: Writer) -> Writer:
    def write(value: Any) -> bytes:
        if type(value) is not list:
            raise InvalidValue(Reason.WRONG_TYPE, "must be an array")
        if not value:
            return _END
        pieces = [long(len(value))]
        append = pieces.append
        try:
            for item in value:
                append(write_item(item))
        except InvalidValue as invalid:
            invalid.steps.append(f"[{len(pieces) - 1}]")
            raise
        append(_END)
        return b"".join(pieces)

    return write


def _map_writer(write_item: Writer) -> Writer:
    def write(value: Any) -> bytes:
        if type(value) is not dict:
            raise InvalidValue(Reason.WRONG_TYPE, "must be an object")
        if not value:
            return _END
        try:
            items = [text(key) + write_item(item) for key, item in value.items()]
        except InvalidValue as invalid:
            invalid.steps.append("[*]")  # Instead of the key, which is a value of the payload.
            raise
        return b"".join((long(len(items)), *items, _END))

    return write
