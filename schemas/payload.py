"""A message's payload, JSON or Avro binary, becomes a datum of its event type's newest contract."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from copy import deepcopy
from functools import cache, lru_cache
from io import BytesIO
from typing import Any, NamedTuple

import orjson
from fastavro import schemaless_reader, schemaless_writer

from schemas.avro_values import FROM_AVRO
from schemas.contracts import Contract
from schemas.datums import Collector, collector_of, default_of, expand, reader_of
from schemas.envelope import AVRO, CONTENT_TYPE, JSON, MAX_PAYLOAD_BYTES
from schemas.json_values import FROM_JSON
from schemas.outcomes import Reason, Rejected, Stage
from schemas.values import Reader, Unfit

_CONTENT_TYPES = {JSON: JSON, AVRO: AVRO, "avro/binary": AVRO}

_TOO_DEEP = "unknown fields are nested deeper than 250 levels"

_UNREADABLE = (EOFError, IndexError, ValueError, OverflowError, MemoryError)
"""What fastavro raises on bytes that are no Avro: too few, an index beyond a union's or enum's, no UTF-8, absurd sizes."""


def decode(contract: Contract, newest: Contract, data: bytes, content_type: str) -> tuple[dict[str, Any], str | None]:
    """Reads a payload that was written by `contract`. `newest` is the newest contract of the same event type.

    Returns a datum that fits newest's schema, and a JSON object of what the payload has and newest does not
    know, nested as in the payload (an array as an object by index), or None where there is no such thing.
    What an older contract had and newest dropped counts as not known. A default in the datum belongs to the
    contract: it must not be changed in place.

    JSON: dates, times and UUIDs are text in the forms of RFC 3339 and RFC 9562, bytes and fixed are base64,
    decimals are text or numbers of at most 15 digits. An absent field takes its default, or null where null
    is allowed. Of a name given twice the last counts. Numbers that no contract knows are kept as 64-bit floats
    if they are not 64-bit integers.
    Avro: one datum in binary encoding, with nothing before or after it.

    Raises Rejected, with the place and the rule but never a value of the payload.
    """
    form = content_type if content_type in (JSON, AVRO) else _form_of(content_type)
    if not data:
        raise Rejected(Stage.DECODE, Reason.EMPTY_PAYLOAD, "the payload has no bytes")
    if len(data) > MAX_PAYLOAD_BYTES:
        detail = f"the payload has {len(data)} bytes; at most {MAX_PAYLOAD_BYTES} are allowed"
        raise Rejected(Stage.DECODE, Reason.PAYLOAD_TOO_LARGE, detail)
    plan = _plan(contract)
    try:
        if form == JSON:
            value = _parse_json(data)
            datum = plan.read_json(value)
        else:
            value = datum = plan.read_avro(_parse_avro(plan.plain_schema, data))
    except Unfit as unfit:
        raise Rejected(Stage.VALIDATE, unfit.reason, unfit.detail) from None
    if contract is not newest:
        resolution = _resolution(contract, newest)
        return resolution.resolve(datum), _json_text(resolution.collect_unknown(value))
    return datum, _json_text(plan.collect_unknown(value)) if form == JSON else None


class _Plan(NamedTuple):
    read_json: Reader
    read_avro: Reader
    collect_unknown: Collector
    plain_schema: Any


@cache
def _plan(contract: Contract) -> _Plan:
    """What is compiled once for each contract that the process has loaded."""
    schema = contract.schema
    read_json, read_avro = reader_of(schema, FROM_JSON), reader_of(schema, FROM_AVRO)
    return _Plan(read_json, read_avro, collector_of(schema, aliases=False), _without_logical_types(schema))


class _Resolution(NamedTuple):
    written: Any
    read: Any
    collect_unknown: Collector

    def resolve(self, datum: dict[str, Any]) -> dict[str, Any]:
        buffer = BytesIO()
        schemaless_writer(buffer, self.written, datum)
        buffer.seek(0)
        resolved: dict[str, Any] = schemaless_reader(buffer, self.written, self.read)  # type: ignore[assignment]
        return resolved


@cache
def _resolution(contract: Contract, newest: Contract) -> _Resolution:
    return _Resolution(contract.schema, _with_datums_as_defaults(newest.schema), collector_of(newest.schema, aliases=True))


@lru_cache(maxsize=256)
def _form_of(content_type: str) -> str:
    """JSON or AVRO; parameters and case don't matter."""
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
    stream = BytesIO(data)
    try:
        value = schemaless_reader(stream, schema, None)
    except _UNREADABLE:
        detail = f"the payload of {len(data)} bytes is cut, or was not written by the contract's schema"
        raise Rejected(Stage.DECODE, Reason.BROKEN_AVRO, detail) from None
    if stream.tell() != len(data):
        detail = f"{len(data) - stream.tell()} bytes follow the datum"
        raise Rejected(Stage.DECODE, Reason.BROKEN_AVRO, detail)
    return value


def _json_text(unknown: dict[str, Any]) -> str | None:
    if not unknown:
        return None
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
                field["default"] = default_of(expanded_field)
            _set_defaults(field["type"], expanded_field["type"])
