"""Counts per event type and outcome"""

from __future__ import annotations

from collections.abc import Mapping

from schemas.fingerprints import Tally
from schemas.json_fields import read_count, read_text
from schemas.outcomes import Exit

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


Books = Mapping[str, Mapping[Exit, Tally]]
"""event type -> exit -> tally. An event type's bucket has the one type; the dead letters have each that was claimed."""


def _tally(value: object) -> Tally:
    tally = Tally.from_json(value)
    read_count(tally.count)
    return tally


def read_books(value: Mapping[str, Mapping[str, object]]) -> dict[str, dict[Exit, Tally]]:
    """Reads what `books_to_json` gave."""
    return {read_text(kind): {Exit(way): _tally(tally) for way, tally in exits.items()} for kind, exits in value.items()}


def books_to_json(books: Books) -> dict[str, dict[str, object]]:
    return {kind: {str(way): tally.to_json() for way, tally in exits.items()} for kind, exits in books.items()}


def add_books(left: Books, right: Books) -> dict[str, dict[Exit, Tally]]:
    """The sum of two books, exit by exit."""
    result = {kind: dict(exits) for kind, exits in left.items()}
    for kind, exits in right.items():
        mine = result.setdefault(kind, {})
        for way, tally in exits.items():
            mine[way] = mine.get(way, Tally()) + tally
    return result
