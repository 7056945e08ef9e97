"""The flights file has the content that README.md describes."""

from __future__ import annotations

import csv
import gzip
import json
from collections import Counter
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def flights() -> list[dict[str, str]]:
    with gzip.open(HERE / "flights.ndjson.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def test_flights__events_per_type(flights: list[dict[str, str]]) -> None:
    """The file has as many events of each type as README.md says."""
    assert Counter(event["event_type"] for event in flights) == {
        "flight_departed": 2_780,
        "flight_arrived": 2_776,
        "weather_observed": 214,
        "flight_cancelled": 114,
    }


def test_flights__events_per_hour(flights: list[dict[str, str]]) -> None:
    """Events per type and hour equal the counts that DuckDB made."""
    with (HERE / "flights_by_hour.csv").open(newline="") as rows:
        counted = {(row["event_type"], row["hour"]): int(row["events"]) for row in csv.DictReader(rows)}
    assert Counter((event["event_type"], event["received_at"][:13] + ":00:00Z") for event in flights) == counted


def test_flights__77_hours_in_order(flights: list[dict[str, str]]) -> None:
    """The events span 77 hours, are in order, and have unique ids."""
    times = [event["received_at"] for event in flights]
    assert times == sorted(times)
    assert (times[0], times[-1][:13], len({time[:13] for time in times})) == ("2013-07-01T04:00:00Z", "2013-07-04T08", 77)
    assert len({event["event_id"] for event in flights}) == len(flights) == 5_884
