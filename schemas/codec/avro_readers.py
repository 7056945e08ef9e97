"""What an Avro decoder gives that knows no logical types becomes what fastavro writes for them, checked on the way."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from schemas.avro_schemas import kind_of
from schemas.codec.json_readers import FROM_JSON, uuid
from schemas.codec.readers import EXACT, INT, LONG, Makers, Reader, Unfit, decimal_fitting
from schemas.outcomes import Reason

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_ORDINAL = _EPOCH.toordinal()
_DAY = timedelta(days=1)
_MILLISECOND = timedelta(milliseconds=1)
_MICROSECOND = timedelta(microseconds=1)


def _same(value: Any) -> Any:
    return value


def _day_of_epoch(value: Any) -> date:
    try:
        return date.fromordinal(value + _EPOCH_ORDINAL)
    except (ValueError, OverflowError):
        raise Unfit(Reason.OUT_OF_RANGE, "must lie in the years 1 to 9999") from None


def _time_of_day(step: timedelta) -> Reader:
    def read(value: Any) -> time:
        if 0 <= value < _DAY // step:
            return (_EPOCH + int(value) * step).time()
        raise Unfit(Reason.OUT_OF_RANGE, "must lie within a day")

    return read


def _moment_of_epoch(step: timedelta, *, local: bool) -> Reader:
    start = _EPOCH.replace(tzinfo=None) if local else _EPOCH

    def read(value: Any) -> datetime:
        try:
            return start + int(value) * step
        except OverflowError:
            raise Unfit(Reason.OUT_OF_RANGE, "must lie in the years 1 to 9999") from None

    return read


def _unscaled_decimal(schema: Mapping[str, Any]) -> Reader:
    fit = decimal_fitting(schema)
    longest = schema["precision"]
    scale = schema.get("scale", 0)
    limit = 10**longest

    def read(value: Any) -> Decimal:
        unscaled = int.from_bytes(value, "big", signed=True)
        if abs(unscaled) >= limit:  # before Decimal sees it, which takes hours for some megabytes
            raise Unfit(Reason.OUT_OF_RANGE, f"must have at most {longest} digits")
        return fit(Decimal(unscaled).scaleb(-scale, context=EXACT))

    return read


FROM_AVRO: Makers = {
    "int": lambda _: INT,
    "long": lambda _: LONG,
    "float": lambda _: _same,
    "double": lambda _: _same,
    "boolean": lambda _: _same,
    "string": lambda _: _same,
    "bytes": lambda _: _same,
    "fixed": lambda _: _same,
    "enum": lambda _: _same,
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
"""Readers of what an Avro decoder gives that knows no logical types. They check what such a decoder does not."""


def _latin1(schema: Mapping[str, Any]) -> Reader:
    size = schema.get("size")

    def read(value: Any) -> bytes:
        try:
            data = str(FROM_JSON["string"](schema)(value)).encode("latin-1")
        except UnicodeEncodeError:
            raise Unfit(Reason.WRONG_TYPE, "must be a string of the characters U+0000 to U+00FF, one for each byte") from None
        if size is not None and len(data) != size:
            raise Unfit(Reason.OUT_OF_RANGE, f"must hold exactly {size} bytes")
        return data

    return read


def _default(schema: Mapping[str, Any]) -> Reader:
    plain = _latin1(schema) if schema["type"] in ("bytes", "fixed") else FROM_JSON[schema["type"]](schema)
    logical = FROM_AVRO[kind_of(schema)](schema)
    return lambda value: logical(plain(value))


FROM_DEFAULT: Makers = dict.fromkeys(FROM_AVRO, _default)
"""Readers of the defaults in a schema: JSON that stands for the plain Avro value, bytes as one character each."""
