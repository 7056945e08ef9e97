"""A message's payload, JSON or Avro binary, becomes a record of its event type's newest contract."""

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
from schemas.codec.readers import Makers, Unfit
from schemas.codec.unknown_fields import collector_of
from schemas.envelope import AVRO, CONTENT_TYPE, JSON, MAX_PAYLOAD_BYTES
from schemas.outcomes import Reason, Rejected, Stage
from schemas.registry.contracts import Contract

_CONTENT_TYPES = {JSON: JSON, AVRO: AVRO, "avro/binary": AVRO}

_TOO_DEEP = "unknown fields are nested deeper than 250 levels"

_UNREADABLE = (EOFError, IndexError, ValueError, OverflowError, MemoryError)
"""What fastavro raises on bytes that are no Avro: too few, an index beyond a union's or enum's, no UTF-8, absurd sizes."""


Transcoder = Callable[[bytes], tuple[bytes, str | None]]
"""Takes a payload. Gives the event's own fields in Avro binary, and its unknown fields. Raises Rejected."""


def transcoder(contract: Contract, newest: Contract, content_type: str) -> Transcoder:
    """Compiles a function that reads payloads that were written by `contract`. `newest` is the newest contract of its type.

    It gives a record of newest's schema in Avro binary, and a JSON object of what the payload has and newest does not
    know, nested as in the payload (an array as an object by index), or None where there is no such thing.
    What an older contract had and newest dropped counts as not known.

    JSON: dates, times and UUIDs are text in the forms of RFC 3339 and RFC 9562, bytes and fixed are base64,
    decimals are text or numbers of at most 15 digits. An absent field takes its default, or null where null
    is allowed. Of a name given twice the last counts. Numbers that no contract knows are kept as 64-bit floats
    if they are not 64-bit integers.
    Avro: one datum in binary encoding, with nothing before or after it.

    Raises Rejected, with the place and the rule but never a value of the payload; at once for a content type that is none.
    """
    return _transcoder(contract, newest, _form_of(content_type))


@cache
def _transcoder(contract: Contract, newest: Contract, form: str) -> Transcoder:
    makers = FROM_JSON if form == JSON else FROM_AVRO
    write, resolve = _writer(contract, newest, makers)
    collect = collector_of(newest.schema, aliases=contract is not newest)
    plain = _without_logical_types(contract.schema)

    def from_json(data: bytes) -> tuple[bytes, str | None]:
        if not 0 < len(data) <= MAX_PAYLOAD_BYTES:
            raise _bad_size(len(data))
        value = _parse_json(data)
        try:
            record = write(value)
        except Unfit as unfit:
            raise Rejected(Stage.VALIDATE, unfit.reason, unfit.detail) from None
        unknown = collect(value)
        return resolve(record) if resolve else record, _json_text(unknown) if unknown else None

    def from_avro(data: bytes) -> tuple[bytes, str | None]:
        if not 0 < len(data) <= MAX_PAYLOAD_BYTES:
            raise _bad_size(len(data))
        try:
            record = write(_parse_avro(plain, data))
        except Unfit as unfit:
            raise Rejected(Stage.VALIDATE, unfit.reason, unfit.detail) from None
        if not resolve:
            return record, None
        # With its logical types, as the text that is kept shows them.
        unknown = collect(_read(contract.schema, record))
        return resolve(record), _json_text(unknown) if unknown else None

    return from_json if form == JSON else from_avro


def _writer(contract: Contract, newest: Contract, makers: Makers) -> tuple[Writer, Callable[[bytes], bytes] | None]:
    """A writer of newest's records, or one of contract's and what brings these to newest's schema."""
    if contract is newest:
        return writer_of(newest.schema, makers), None
    added = _only_added(contract.schema, newest.schema)
    if added is not None:
        return writer_of(newest.schema, makers, added), None
    written, read = contract.schema, _with_datums_as_defaults(newest.schema)

    def resolve(record: bytes) -> bytes:
        buffer = BytesIO()
        schemaless_writer(buffer, newest.schema, _read(written, record, read))
        return buffer.getvalue()

    return writer_of(written, makers), resolve


def _read(schema: Any, data: bytes, read_as: Any = None) -> Any:
    return schemaless_reader(BytesIO(data), schema, read_as)


def _only_added(written: dict[str, Any], newest: dict[str, Any]) -> dict[str, bytes] | None:
    """The defaults of the newest schema's new fields, if it differs in these alone; the usual case, and the cheap one."""
    old = {field["name"]: field for field in expand(written)["fields"]}
    fields = expand(newest)["fields"]
    added = [field for field in fields if field["name"] not in old]
    same = {field["name"]: field for field in fields if field["name"] in old} == old
    if not same or any("default" not in field or "aliases" in field for field in added):
        return None
    return {field["name"]: default_bytes(field) for field in added}


def _bad_size(size: int) -> Rejected:
    if not size:
        return Rejected(Stage.DECODE, Reason.EMPTY_PAYLOAD, "the payload has no bytes")
    detail = f"the payload has {size} bytes; at most {MAX_PAYLOAD_BYTES} are allowed"
    return Rejected(Stage.DECODE, Reason.PAYLOAD_TOO_LARGE, detail)


@lru_cache(maxsize=256)
def _form_of(content_type: str) -> str:
    """JSON or AVRO; parameters and case don't matter. Raises Rejected."""
    form = _CONTENT_TYPES.get(content_type.partition(";")[0].strip().lower())
    if form is None:
        detail = f"attribute {CONTENT_TYPE} must be {' or '.join(_CONTENT_TYPES)}"
        raise Rejected(Stage.ENVELOPE, Reason.UNKNOWN_CONTENT_TYPE, detail)
    return form


def _parse_json(data: bytes) -> Any:
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        try:
            data.decode()
        except UnicodeDecodeError as bad:
            detail = f"byte {bad.start} of the payload is not UTF-8"
            raise Rejected(Stage.DECODE, Reason.INVALID_UTF8, detail) from None
        detail = f"the payload is not JSON from character {error.pos} on: {error.msg}"
        raise Rejected(Stage.DECODE, Reason.NOT_JSON, detail) from None
    if type(value) is not dict:
        raise Rejected(Stage.DECODE, Reason.NOT_JSON, "the payload is JSON, but not an object")
    return value


def _parse_avro(schema: Any, data: bytes) -> Any:
    source = BytesIO(data)
    try:
        value = schemaless_reader(source, schema, None)
    except _UNREADABLE:
        detail = f"the payload of {len(data)} bytes is cut, or was not written by the contract's schema"
        raise Rejected(Stage.DECODE, Reason.BROKEN_AVRO, detail) from None
    if source.tell() != len(data):
        detail = f"{len(data) - source.tell()} bytes follow the datum"
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
    """A copy whose datums are plain Avro values, so that our own readers check them and name the place."""
    if isinstance(schema, list):
        return [_without_logical_types(branch) for branch in schema]
    if isinstance(schema, Mapping):
        return {key: _without_logical_types(item) for key, item in schema.items() if key != "logicalType"}
    return schema


def _with_datums_as_defaults(schema: Any) -> Any:
    """A copy for fastavro's schema resolution, which hands out defaults as they stand, in JSON."""
    copy = deepcopy(schema)
    _set_defaults(copy, expand(schema))
    return copy


def _set_defaults(schema: Any, expanded: Any) -> None:
    if isinstance(schema, list):
        for branch, expanded_branch in zip(schema, expanded, strict=True):
            _set_defaults(branch, expanded_branch)
    elif isinstance(schema, dict):
        for below in ("items", "values"):
            if below in schema:
                _set_defaults(schema[below], expanded[below])
        for field, expanded_field in zip(schema.get("fields", ()), expanded.get("fields", ()), strict=True):
            if "default" in field:
                field["default"] = _read(expanded_field["type"], default_bytes(expanded_field))
            _set_defaults(field["type"], expanded_field["type"])
