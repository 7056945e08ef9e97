"""Readers of Avro values: check plain values, decoded without logical types, and convert them to fastavro's datums."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from schemas.avro_schemas import avro_type_of
from schemas.codec.json_readers import FROM_JSON, uuid
from schemas.codec.readers import EXACT, INT, LONG, InvalidValue, Reader, ReaderFactories, decimal_scaler
from schemas.outcomes import Reason

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_ORDINAL = _EPOCH.toordinal()
_DAY = timedelta(days=1)
_MILLISECOND = timedelta(milliseconds=1)
_MICROSECOND = timedelta(microseconds=1)


def _unchanged(value: Any) -> Any:
    return value


def _day_of_epoch(value: Any) -> date:
    try:
        return date.fromordinal(value + _EPOCH_ORDINAL)
    except (ValueError, OverflowError):
        raise InvalidValue(Reason.OUT_OF_RANGE, "must be in the years 1 to 9999") from None


def _time_of_day(step: timedelta) -> Reader:
    def read(value: Any) -> time:
        if 0 <= value < _DAY // step:
            return (_EPOCH + int(value) * step).time()
        raise InvalidValue(Reason.OUT_OF_RANGE, "must be within a day")

    return read


def _moment_of_epoch(step: timedelta, *, local: bool) -> Reader:
    start = _EPOCH.replace(tzinfo=None) if local else _EPOCH

    def read(value: Any) -> datetime:
        try:
            return start + int(value) * step
        except OverflowError:
            raise InvalidValue(Reason.OUT_OF_RANGE, "must be in the years 1 to 9999") from None

    return read


def _unscaled_decimal(schema: Mapping[str, Any]) -> Reader:
    to_scale = decimal_scaler(schema)
    precision = schema["precision"]
    scale = schema.get("scale", 0)
    limit = 10**precision

    def read(value: Any) -> Decimal:
        unscaled = int.from_bytes(value, "big", signed=True)
        if abs(unscaled) >= limit:  # Checked first, since Decimal takes hours for a few megabytes.
            raise InvalidValue(Reason.OUT_OF_RANGE, f"must have at most {precision} digits")
        return to_scale(Decimal(unscaled).scaleb(-scale, context=EXACT))

    return read


FROM_AVRO: ReaderFactories = {
    "int": lambda _: INT,
    "long": lambda _: LONG,
    "float": lambda _: _unchanged,
    "double": lambda _: _unchanged,
    "boolean": lambda _: _unchanged,
    "string": lambda _: _unchanged,
    "bytes": lambda _: _unchanged,
    "fixed": lambda _: _unchanged,
    "enum": lambda _: _unchanged,
    "date": lambda _: _day_of_epoch,
    "time-millis": lambda _: _time_of_day(_MILLISECOND),
    "time-micros": lambda _: _time_of_day(_MICROSECOND),
    "timestamp-millis": lambda _: _moment_of_epoch(_MILLISECOND, local=False),
    "timestamp-micros": lambda _: _moment_of_epoch(_MICROSECOND, local=False),
    "local-timestamp-millis": lambda _: _moment_of_epoch(_MILLISECOND, local=True),
    "local-timestamp-micros": lambda _: _moment_of_epoch(_MICROSECOND, local=True),
    "decimal": _unscaled_decimal,
    "uuid": lambda _: uuid,
}
"""Readers of values that were decoded without logical types. They make the checks that such a decoder does not make."""


def _latin1(schema: Mapping[str, Any]) -> Reader:
    size = schema.get("size")

    def read(value: Any) -> bytes:
        try:
            data = str(FROM_JSON["string"](schema)(value)).encode("latin-1")
        except UnicodeEncodeError:
            raise InvalidValue(Reason.WRONG_TYPE, "must be a string of characters U+0000 to U+00FF, one per byte") from None
        if size is not None and len(data) != size:
            raise InvalidValue(Reason.OUT_OF_RANGE, f"must have exactly {size} bytes")
        return data

    return read


def _default(schema: Mapping[str, Any]) -> Reader:
    plain = _latin1(schema) if schema["type"] in ("bytes", "fixed") else FROM_JSON[schema["type"]](schema)
    logical = FROM_AVRO[avro_type_of(schema)](schema)
    return lambda value: logical(plain(value))


FROM_DEFAULT: ReaderFactories = dict.fromkeys(FROM_AVRO, _default)
"""Readers of a schema's defaults, which are plain Avro values in JSON: a string with one character per byte for bytes."""
