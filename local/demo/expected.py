"""Expected results of the demo, computed from its input alone, and how the audit's verdicts differ from them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from itertools import product
from pathlib import Path
from typing import Any

from publisher.simulate import Expected, expected
from schemas.buckets import HOUR, hour_of
from schemas.envelope import format_time, parse_time

Key = tuple[str, datetime]
"""Event type, "" if the events have none, and hour."""


def flights_hours(file: Path) -> list[datetime]:
    """Return every hour from the first event of the file to the last."""
    return _every_hour(hour for _, hour in _flights(file))


def expected_results(flights: Path, seed: int, events: int, hours: int, end: datetime) -> dict[Key, Expected]:
    """Return the expected result for each event type and hour."""
    result = expected(seed, events, hours, end)
    keys = _flights(flights)
    for key in product({event_type for event_type, _ in keys}, _every_hour(hour for _, hour in keys)):
        result[key] = Expected()
    for key in keys:
        result[key].messages += 1
        result[key].delivered += 1
    return result


def differences(verdicts: Iterable[Mapping[str, Any]], expectation: Mapping[Key, Expected]) -> list[str]:
    """Return a line for each event type and hour whose verdict is unexpected, missing, or not the expected one."""
    rows = {(row["event_type"], parse_time(row["hour"])): row for row in verdicts}
    result = [
        f"{event_type or '(no type)'} {format_time(hour)}: the input has no such event type and hour"
        for event_type, hour in rows.keys() - expectation.keys()
    ]
    for (event_type, hour), counts in expectation.items():
        row = rows.get((event_type, hour), {})
        expected_row = {
            "status": "COMPLETE",
            "published": counts.messages,
            "received": counts.messages,
            "in_files": counts.delivered,
            "in_table": counts.delivered,
            "late": counts.late,
            "duplicates": counts.duplicates,
            "dead_letters": counts.dead.total(),
        }
        mismatches = [
            f"{name} is {row.get(name)}, not {value}" for name, value in expected_row.items() if row.get(name) != value
        ]
        if mismatches:
            result.append(f"{event_type or '(no type)'} {format_time(hour)}: {', '.join(mismatches)}")
    return sorted(result)


def _flights(file: Path) -> list[Key]:
    with gzip.open(file) as lines:
        events = [json.loads(line) for line in lines]
    return [(event["event_type"], hour_of(parse_time(event["received_at"]))) for event in events]


def _every_hour(hours: Iterable[datetime]) -> list[datetime]:
    ordered = sorted(set(hours))
    return [ordered[0] + HOUR * step for step in range((ordered[-1] - ordered[0]) // HOUR + 1)]
