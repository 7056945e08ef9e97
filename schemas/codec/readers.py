"""What readers of single values share: how a value is refused, whole numbers, and decimals that lose no digit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Context, Decimal
from typing import Any

from schemas.outcomes import Reason

Reader = Callable[[Any], Any]
"""Takes a value, gives its datum, and raises Unfit when the value breaks the type."""

Makers = Mapping[str, Callable[[Mapping[str, Any]], Reader]]
"""The kind of a type (see `kind_of`) -> a function that makes its reader from its Avro schema."""

EXACT = Context(prec=200)
"""Arithmetic that rounds no decimal of ours: a BigQuery column holds 76 digits at most."""


class Unfit(Exception):
    """A value breaks its type. `steps` lead to it, the innermost first; whoever holds the value appends its own."""

    def __init__(self, reason: Reason, rule: str) -> None:
        super().__init__(rule)
        self.reason = reason
        self.rule = rule
        self.steps: list[str] = []

    @property
    def detail(self) -> str:
        """Where and which rule, such as `tracks[2].length: must be a whole number`."""
        place = "".join(reversed(self.steps)).removeprefix(".") or "payload"
        return f"{place}: {self.rule}"


def whole(low: int, high: int) -> Reader:
    """Integers from `low` to `high`. A boolean is none, nor is 1.0: the sender means another type."""
    wrong = "must be a whole number"
    outside = f"must lie between {low} and {high}"

    def read(value: Any) -> int:
        if type(value) is int:
            if low <= value <= high:
                return value
            raise Unfit(Reason.OUT_OF_RANGE, outside)
        if type(value) is float and abs(value) >= 2**63:  # orjson reads integers beyond 64 bits as floats
            raise Unfit(Reason.OUT_OF_RANGE, outside)
        raise Unfit(Reason.WRONG_TYPE, wrong)

    return read


def decimal_fitting(schema: Mapping[str, Any]) -> Callable[[Decimal], Decimal]:
    """Brings a number to the schema's scale, and raises Unfit rather than lose a digit."""
    scale = schema.get("scale", 0)
    before_point = schema["precision"] - scale
    unit = Decimal((0, (1,), -scale))

    def fit(value: Decimal) -> Decimal:
        if value and value.adjusted() >= before_point:
            raise Unfit(Reason.OUT_OF_RANGE, f"must have at most {before_point} digits before the point")
        scaled = value.quantize(unit, context=EXACT)
        if scaled != value:
            raise Unfit(Reason.OUT_OF_RANGE, f"must have at most {scale} digits after the point")
        return scaled

    return fit


INT = whole(-(2**31), 2**31 - 1)
LONG = whole(-(2**63), 2**63 - 1)
