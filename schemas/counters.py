"""Counts per event type and outcome"""

from __future__ import annotations

from collections.abc import Mapping

from schemas.fingerprints import Tally
from schemas.json_fields import read_count, read_text
from schemas.outcomes import Outcome

Reasons = Mapping[str, Mapping[str, int]]
"""event type -> reason -> number of dead letters."""


def add_reasons(left: Reasons, right: Reasons) -> dict[str, dict[str, int]]:
    """The sum of two tables of reasons."""
    result = {kind: dict(numbers) for kind, numbers in left.items()}
    for kind, numbers in right.items():
        mine = result.setdefault(kind, {})
        for reason, number in numbers.items():
            mine[reason] = mine.get(reason, 0) + number
    return result


Counters = Mapping[str, Mapping[Outcome, Tally]]
"""event type -> outcome -> tally. An event type's bucket has the one type; the dead letters have each that was claimed."""


def _tally(value: object) -> Tally:
    tally = Tally.from_json(value)
    read_count(tally.count)
    return tally


def read_counters(value: Mapping[str, Mapping[str, object]]) -> dict[str, dict[Outcome, Tally]]:
    """Reads what `counters_to_json` gave."""
    return {
        read_text(kind): {Outcome(outcome): _tally(tally) for outcome, tally in outcomes.items()}
        for kind, outcomes in value.items()
    }


def counters_to_json(counters: Counters) -> dict[str, dict[str, object]]:
    return {kind: {str(outcome): tally.to_json() for outcome, tally in outcomes.items()} for kind, outcomes in counters.items()}


def add_counters(left: Counters, right: Counters) -> dict[str, dict[Outcome, Tally]]:
    """The sum of two sets of counters, outcome by outcome."""
    result = {kind: dict(outcomes) for kind, outcomes in left.items()}
    for kind, outcomes in right.items():
        mine = result.setdefault(kind, {})
        for outcome, tally in outcomes.items():
            mine[outcome] = mine.get(outcome, Tally()) + tally
    return result
