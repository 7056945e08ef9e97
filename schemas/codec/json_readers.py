"""Readers of JSON values: check a value and convert it to fastavro's datum. No value is coerced to another type."""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from collections.abc import Mapping
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

from schemas.codec.readers import EXACT, INT, LONG, InvalidValue, Reader, ReaderFactories, decimal_scaler
from schemas.envelope import parse_time
from schemas.outcomes import Reason

FLOAT_DIGITS = 15
"""JSON numbers with a fraction or exponent are parsed as 64-bit floats, which are exact up to this many decimal digits."""

_FLOAT32_END = (2 - 2**-24) * 2.0**127
"""Smallest positive number that is too large for a 32-bit float: it is rounded to infinity."""

_MAX_DECIMAL_LENGTH = 100
_DECIMAL = re.compile(r"-?[0-9]+(\.[0-9]+)?")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_CLOCK = re.compile(r"[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?")
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def _double(value: Any) -> float:
    if type(value) is float:
        return value
    if type(value) is int:
        return float(value)
    raise InvalidValue(Reason.WRONG_TYPE, "must be a number")


def _float(value: Any) -> float:
    number = _double(value)
    if -_FLOAT32_END < number < _FLOAT32_END:
        return number
    raise InvalidValue(Reason.OUT_OF_RANGE, "must fit into a 32-bit float")


def _boolean(value: Any) -> bool:
    if value is True or value is False:
        return bool(value)
    raise InvalidValue(Reason.WRONG_TYPE, "must be true or false")


def _string(value: Any) -> str:
    if type(value) is str:
        return value
    raise InvalidValue(Reason.WRONG_TYPE, "must be a string")


def _base64(value: Any) -> bytes:
    try:
        return b64decode(_string(value), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidValue(Reason.WRONG_TYPE, "must be a string in base64 (RFC 4648, with padding)") from None


def _fixed_base64(schema: Mapping[str, Any]) -> Reader:
    size = schema["size"]

    def read(value: Any) -> bytes:
        data = _base64(value)
        if len(data) != size:
            raise InvalidValue(Reason.OUT_OF_RANGE, f"must have exactly {size} bytes")
        return data

    return read


def _enum(schema: Mapping[str, Any]) -> Reader:
    symbols = frozenset(schema["symbols"])

    def read(value: Any) -> str:
        if _string(value) in symbols:
            return str(value)
        raise InvalidValue(Reason.OUT_OF_RANGE, "must be one of the enum's symbols")

    return read


def _text(value: Any, form: re.Pattern[str], rule: str) -> str:
    if type(value) is str and form.fullmatch(value):
        return value
    raise InvalidValue(Reason.WRONG_TYPE, rule)


def _date(value: Any) -> date:
    rule = "must be a date such as 2013-07-01"
    try:
        return date.fromisoformat(_text(value, _DATE, rule))
    except ValueError:
        raise InvalidValue(Reason.WRONG_TYPE, rule) from None


def _time(step: int) -> Reader:
    """Return a reader of times of day, truncated to multiples of `step` microseconds."""
    rule = "must be a time of day such as 09:30:00 or 09:30:00.250"

    def read(value: Any) -> time:
        try:
            clock = time.fromisoformat(_text(value, _CLOCK, rule)[:15])
        except ValueError:
            raise InvalidValue(Reason.WRONG_TYPE, rule) from None
        return clock.replace(microsecond=clock.microsecond // step * step)

    return read


def _moment(step: int, *, local: bool) -> Reader:
    """Return a reader of timestamps, truncated to multiples of `step` microseconds. `local`: without an offset."""
    if local:
        rule = "must be a date and time without an offset, such as 2026-01-31T09:30:00"
    else:
        rule = "must be an RFC 3339 time with an offset, such as 2026-01-31T09:30:00Z"

    def read(value: Any) -> datetime:
        try:
            moment = parse_time(f"{_string(value)}Z" if local else _string(value))
        except ValueError:
            raise InvalidValue(Reason.WRONG_TYPE, rule) from None
        except OverflowError:
            raise InvalidValue(Reason.OUT_OF_RANGE, "must be in the years 1 to 9999 in UTC") from None
        return moment.replace(microsecond=moment.microsecond // step * step, tzinfo=None if local else UTC)

    return read


def _decimal(schema: Mapping[str, Any]) -> Reader:
    to_scale = decimal_scaler(schema)
    rule = f"must be a decimal as a string, such as -12.50, or a number of at most {FLOAT_DIGITS} digits"

    def read(value: Any) -> Decimal:
        if type(value) is str:
            if len(value) > _MAX_DECIMAL_LENGTH:
                raise InvalidValue(Reason.OUT_OF_RANGE, f"must have at most {_MAX_DECIMAL_LENGTH} characters")
            return to_scale(Decimal(_text(value, _DECIMAL, rule)))
        if type(value) is int:
            return to_scale(Decimal(value))
        if type(value) is float:
            number = Decimal(repr(value))
            if len(number.normalize(EXACT).as_tuple().digits) <= FLOAT_DIGITS:
                return to_scale(number)
        raise InvalidValue(Reason.WRONG_TYPE, rule)

    return read


def uuid(value: Any) -> str:
    """Return a UUID in lower case; raise InvalidValue for any other value."""
    return _text(value, _UUID, "must be a UUID such as 11a3c6f1-f12d-5cae-a394-286231c8f7bd").lower()


FROM_JSON: ReaderFactories = {
    "int": lambda _: INT,
    "long": lambda _: LONG,
    "float": lambda _: _float,
    "double": lambda _: _double,
    "boolean": lambda _: _boolean,
    "string": lambda _: _string,
    "bytes": lambda _: _base64,
    "fixed": _fixed_base64,
    "enum": _enum,
    "date": lambda _: _date,
    "time-millis": lambda _: _time(1000),
    "time-micros": lambda _: _time(1),
    "timestamp-millis": lambda _: _moment(1000, local=False),
    "timestamp-micros": lambda _: _moment(1, local=False),
    "local-timestamp-millis": lambda _: _moment(1000, local=True),
    "local-timestamp-micros": lambda _: _moment(1, local=True),
    "decimal": _decimal,
    "uuid": lambda _: uuid,
}
"""Readers of JSON values. Times are truncated, not rounded, to the unit of the type."""
