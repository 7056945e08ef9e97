"""The flights file holds what README.md says of it."""

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


def test_the_file_holds_the_events_of_each_type_that_readme_tells(flights: list[dict[str, str]]) -> None:
    assert Counter(event["event_type"] for event in flights) == {
        "flight_departed": 2_780,
        "flight_arrived": 2_776,
        "weather_observed": 214,
        "flight_cancelled": 114,
    }


def test_each_hour_of_each_type_holds_what_duckdb_counted(flights: list[dict[str, str]]) -> None:
    with (HERE / "flights_by_hour.csv").open(newline="") as rows:
        counted = {(row["event_type"], row["hour"]): int(row["events"]) for row in csv.DictReader(rows)}
    assert Counter((event["event_type"], event["received_at"][:13] + ":00:00Z") for event in flights) == counted


def test_the_events_span_77_hours_in_order_and_no_id_comes_twice(flights: list[dict[str, str]]) -> None:
    times = [event["received_at"] for event in flights]
    assert times == sorted(times)
    assert (times[0], times[-1][:13], len({time[:13] for time in times})) == ("2013-07-01T04:00:00Z", "2013-07-04T08", 77)
    assert len({event["event_id"] for event in flights}) == len(flights) == 5_884
