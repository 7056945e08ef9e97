"""Common parts of the readers of JSON and Avro values: the exception, integers, and decimals without loss of digits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Context, Decimal
from typing import Any

from schemas.outcomes import Reason

Reader = Callable[[Any], Any]
"""A function from a value to its datum, the Python object that fastavro writes. Raises InvalidValue if there is none."""

ReaderFactories = Mapping[str, Callable[[Mapping[str, Any]], Reader]]
"""Avro type (see `avro_type_of`) -> a function from the type's schema to its reader."""

EXACT = Context(prec=200)
"""A context that rounds no decimal of a contract: a BigQuery column has at most 76 digits."""


class InvalidValue(Exception):
    """A value breaks its type."""

    def __init__(self, reason: Reason, rule: str) -> None:
        super().__init__(rule)
        self.reason = reason
        self.rule = rule
        # The path to the value, innermost step first. Each enclosing writer appends its step.
        self.steps: list[str] = []

    @property
    def detail(self) -> str:
        """The path to the value and the broken rule, such as `tracks[2].length: must be an integer`."""
        path = "".join(reversed(self.steps)).removeprefix(".") or "payload"
        return f"{path}: {self.rule}"


def integer(low: int, high: int) -> Reader:
    """Return a reader of integers from `low` to `high`. It rejects booleans and 1.0, since their sender uses another type."""
    wrong_type = "must be an integer"
    out_of_range = f"must be between {low} and {high}"

    def read(value: Any) -> int:
        if type(value) is int:
            if low <= value <= high:
                return value
            raise InvalidValue(Reason.OUT_OF_RANGE, out_of_range)
        if type(value) is float and abs(value) >= 2**63:  # orjson parses integers beyond 64 bits as floats.
            raise InvalidValue(Reason.OUT_OF_RANGE, out_of_range)
        raise InvalidValue(Reason.WRONG_TYPE, wrong_type)

    return read


def decimal_scaler(schema: Mapping[str, Any]) -> Callable[[Decimal], Decimal]:
    """Return a function that converts a number to the schema's scale. It raises InvalidValue instead of dropping digits."""
    scale = schema.get("scale", 0)
    before_point = schema["precision"] - scale
    unit = Decimal((0, (1,), -scale))

    def to_scale(value: Decimal) -> Decimal:
        if value and value.adjusted() >= before_point:
            raise InvalidValue(Reason.OUT_OF_RANGE, f"must have at most {before_point} digits before the point")
        scaled = value.quantize(unit, context=EXACT)
        if scaled != value:
            raise InvalidValue(Reason.OUT_OF_RANGE, f"must have at most {scale} digits after the point")
        return scaled

    return to_scale


INT = integer(-(2**31), 2**31 - 1)
LONG = integer(-(2**63), 2**63 - 1)
