"""Transcoder: payloads in JSON or Avro binary to Avro records of the newest contract of their event type."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import cache, lru_cache
from io import BytesIO
from typing import Any

import orjson
from fastavro import schemaless_reader, schemaless_writer

from schemas.avro_schemas import expand
from schemas.codec.avro_readers import FROM_AVRO
from schemas.codec.avro_writers import Writer, default_bytes, writer_of
from schemas.codec.json_readers import FROM_JSON
from schemas.codec.readers import InvalidValue, ReaderFactories
from schemas.codec.unknown_fields import collector_of
from schemas.envelope import AVRO, CONTENT_TYPE, JSON, MAX_PAYLOAD_BYTES
from schemas.outcomes import Reason, Rejected, Stage
from schemas.registry.contracts import Contract

_CONTENT_TYPES = {JSON: JSON, AVRO: AVRO, "avro/binary": AVRO}

_TOO_DEEP = "unknown fields are nested deeper than 250 levels"

_UNREADABLE = (EOFError, IndexError, ValueError, OverflowError, MemoryError)
"""Exceptions of fastavro for invalid data: too few bytes, bad index of a union or enum, invalid UTF-8, absurd sizes."""

Transcoder = Callable[[bytes], tuple[bytes, str | None]]
"""A function from a payload to the event's own fields in Avro binary and its unknown fields. Raises Rejected."""


def transcoder(contract: Contract, newest: Contract, content_type: str) -> Transcoder:
    """Compile a function that converts payloads.

    The function returns two values. The first is a record of newest's schema in Avro binary. The second is a JSON object
    of the payload's unknown fields, or None if there are none. Unknown fields are those that `newest` does not have, even
    if an older contract had them. They are nested as in the payload; arrays become objects by index.

    JSON payloads: dates, times and UUIDs are strings in the forms of RFC 3339 and RFC 9562. Bytes and fixed are base64.
    Decimals are strings, or numbers of at most 15 digits. An absent field takes its default, or null if null is allowed.
    If a name occurs twice, the last value is used. Unknown numbers are kept as 64-bit floats unless they are 64-bit
    integers.

    Avro payloads: one datum in binary encoding, with nothing before or after it.

    Args:
        contract: The contract with which the payloads were written.
        newest: The newest contract of the same event type.
        content_type: The content type of the payloads. Case and parameters are ignored.

    Raises:
        Rejected: The content type is unknown. The compiled function raises it for invalid payloads, with the field and the
            broken rule, but without any value of the payload.
    """
    return _transcoder(contract, newest, _normalized(content_type))


@cache
def _transcoder(contract: Contract, newest: Contract, content_type: str) -> Transcoder:
    readers = FROM_JSON if content_type == JSON else FROM_AVRO
    write, resolve = _writer(contract, newest, readers)
    collect = collector_of(newest.schema, aliases=contract is not newest)
    plain = _without_logical_types(contract.schema)

    def from_json(data: bytes) -> tuple[bytes, str | None]:
        if not 0 < len(data) <= MAX_PAYLOAD_BYTES:
            raise _bad_size(len(data))
        value = _parse_json(data)
        try:
            record = write(value)
        except InvalidValue as invalid:
            raise Rejected(Stage.VALIDATE, invalid.reason, invalid.detail) from None
        unknown = collect(value)
        return resolve(record) if resolve else record, _json_text(unknown) if unknown else None

    def from_avro(data: bytes) -> tuple[bytes, str | None]:
        if not 0 < len(data) <= MAX_PAYLOAD_BYTES:
            raise _bad_size(len(data))
        try:
            record = write(_parse_avro(plain, data))
        except InvalidValue as invalid:
            raise Rejected(Stage.VALIDATE, invalid.reason, invalid.detail) from None
        if not resolve:
            return record, None
        # Read again with logical types, so that the kept text has dates and times instead of numbers.
        unknown = collect(_read(contract.schema, record))
        return resolve(record), _json_text(unknown) if unknown else None

    return from_json if content_type == JSON else from_avro


def _writer(contract: Contract, newest: Contract, readers: ReaderFactories) -> tuple[Writer, Callable[[bytes], bytes] | None]:
    """Return a writer of records, and a function that converts these records to newest's schema, or None if they have it."""
    if contract is newest:
        return writer_of(newest.schema, readers), None
    defaults = _defaults_of_new_fields(contract.schema, newest.schema)
    if defaults is not None:
        return writer_of(newest.schema, readers, defaults), None
    writer_schema, reader_schema = contract.schema, _with_datums_as_defaults(newest.schema)

    def resolve(record: bytes) -> bytes:
        buffer = BytesIO()
        schemaless_writer(buffer, newest.schema, _read(writer_schema, record, reader_schema))
        return buffer.getvalue()

    return writer_of(writer_schema, readers), resolve


def _read(schema: Any, data: bytes, reader_schema: Any = None) -> Any:
    return schemaless_reader(BytesIO(data), schema, reader_schema)


def _defaults_of_new_fields(old: dict[str, Any], newest: dict[str, Any]) -> dict[str, bytes] | None:
    """Return the encoded defaults of the newest schema's new fields, or None if it has other changes too.

    New fields alone are the usual case, and need no schema resolution.
    """
    old_fields = {field["name"]: field for field in expand(old)["fields"]}
    fields = expand(newest)["fields"]
    added = [field for field in fields if field["name"] not in old_fields]
    unchanged = {field["name"]: field for field in fields if field["name"] in old_fields} == old_fields
    if not unchanged or any("default" not in field or "aliases" in field for field in added):
        return None
    return {field["name"]: default_bytes(field) for field in added}


def _bad_size(size: int) -> Rejected:
    if not size:
        return Rejected(Stage.DECODE, Reason.EMPTY_PAYLOAD, "the payload is empty")
    detail = f"the payload has {size} bytes; at most {MAX_PAYLOAD_BYTES} are allowed"
    return Rejected(Stage.DECODE, Reason.PAYLOAD_TOO_LARGE, detail)


@lru_cache(maxsize=256)
def _normalized(content_type: str) -> str:
    """Return JSON or AVRO for a content type, regardless of case and parameters. Raises Rejected if it is neither."""
    normalized = _CONTENT_TYPES.get(content_type.partition(";")[0].strip().lower())
    if normalized is None:
        detail = f"attribute {CONTENT_TYPE} must be {' or '.join(_CONTENT_TYPES)}"
        raise Rejected(Stage.ENVELOPE, Reason.UNKNOWN_CONTENT_TYPE, detail)
    return normalized


def _parse_json(data: bytes) -> Any:
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        try:
            data.decode()
        except UnicodeDecodeError as bad:
            detail = f"byte {bad.start} of the payload is not UTF-8"
            raise Rejected(Stage.DECODE, Reason.INVALID_UTF8, detail) from None
        detail = f"the payload is not JSON, at character {error.pos}: {error.msg}"
        raise Rejected(Stage.DECODE, Reason.NOT_JSON, detail) from None
    if type(value) is not dict:
        raise Rejected(Stage.DECODE, Reason.NOT_JSON, "the payload is JSON, but not a JSON object")
    return value


def _parse_avro(schema: Any, data: bytes) -> Any:
    source = BytesIO(data)
    try:
        value = schemaless_reader(source, schema, None)
    except _UNREADABLE:
        detail = f"the payload of {len(data)} bytes is truncated, or was not written with the contract's schema"
        raise Rejected(Stage.DECODE, Reason.BROKEN_AVRO, detail) from None
    if source.tell() != len(data):
        detail = f"the payload has {len(data) - source.tell()} bytes after the Avro datum"
        raise Rejected(Stage.DECODE, Reason.BROKEN_AVRO, detail)
    return value


def _json_text(unknown: dict[str, Any]) -> str:
    try:
        return orjson.dumps(unknown, default=_as_json).decode()
    except orjson.JSONEncodeError:
        raise Rejected(Stage.DECODE, Reason.NOT_JSON, _TOO_DEEP) from None


def _as_json(value: Any) -> str:
    return b64encode(value).decode() if isinstance(value, bytes) else str(value)


def _without_logical_types(schema: Any) -> Any:
    """Return a copy with which fastavro decodes plain Avro values, so that our own readers check them and name the field."""
    if isinstance(schema, list):
        return [_without_logical_types(branch) for branch in schema]
    if isinstance(schema, Mapping):
        return {key: _without_logical_types(item) for key, item in schema.items() if key != "logicalType"}
    return schema


def _with_datums_as_defaults(schema: Any) -> Any:
    """Return a copy whose defaults are datums, since fastavro's schema resolution does not decode defaults from JSON."""
    copy = deepcopy(schema)
    _set_defaults(copy, expand(schema))
    return copy


def _set_defaults(schema: Any, expanded: Any) -> None:
    if isinstance(schema, list):
        for branch, expanded_branch in zip(schema, expanded, strict=True):
            _set_defaults(branch, expanded_branch)
    elif isinstance(schema, dict):
        for key in ("items", "values"):
            if key in schema:
                _set_defaults(schema[key], expanded[key])
        for field, expanded_field in zip(schema.get("fields", ()), expanded.get("fields", ()), strict=True):
            if "default" in field:
                field["default"] = _read(expanded_field["type"], default_bytes(expanded_field))
            _set_defaults(field["type"], expanded_field["type"])
