"""Counters per event type and outcome, and counts of dead letters per reason."""

from __future__ import annotations

from collections.abc import Mapping

from schemas.fingerprints import Tally
from schemas.json_fields import read_count, read_text
from schemas.outcomes import Outcome

Reasons = Mapping[str, Mapping[str, int]]
"""Event type -> reason -> number of dead letters."""


def add_reasons(left: Reasons, right: Reasons) -> dict[str, dict[str, int]]:
    """Return the sum of two mappings, reason by reason."""
    result = {event_type: dict(numbers) for event_type, numbers in left.items()}
    for event_type, numbers in right.items():
        sums = result.setdefault(event_type, {})
        for reason, number in numbers.items():
            sums[reason] = sums.get(reason, 0) + number
    return result


Counters = Mapping[str, Mapping[Outcome, Tally]]
"""Event type -> outcome -> tally.

A bucket of an event type has this type only. A bucket of dead letters has every type that its messages claim; "" stands
for messages without a type.
"""


def read_tally(value: object) -> Tally:
    """Parse a tally of a report or a manifest, and check that its count is at most `MAX_COUNT`.

    Raises:
        ValueError: The value is not a tally, or its count is too large.
    """
    tally = Tally.from_json(value)
    read_count(tally.count)
    return tally


def read_counters(value: Mapping[str, Mapping[str, object]]) -> dict[str, dict[Outcome, Tally]]:
    """Parse the result of `counters_to_json`.

    Raises:
        ValueError, TypeError, AttributeError: The value has another form.
    """
    return {
        read_text(event_type): {Outcome(outcome): read_tally(tally) for outcome, tally in outcomes.items()}
        for event_type, outcomes in value.items()
    }


def counters_to_json(counters: Counters) -> dict[str, dict[str, object]]:
    """Return the counters as an object for JSON."""
    return {
        event_type: {str(outcome): tally.to_json() for outcome, tally in outcomes.items()}
        for event_type, outcomes in counters.items()
    }


def add_counters(left: Counters, right: Counters) -> dict[str, dict[Outcome, Tally]]:
    """Return the sum of two sets of counters, outcome by outcome."""
    result = {event_type: dict(outcomes) for event_type, outcomes in left.items()}
    for event_type, outcomes in right.items():
        sums = result.setdefault(event_type, {})
        for outcome, tally in outcomes.items():
            sums[outcome] = sums.get(outcome, Tally()) + tally
    return result
