"""Reports survive JSON unchanged, and other data are rejected."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from schemas.audit_reports import DeliveredReport, PublishedReport, parse_report
from schemas.buckets import DEAD_LETTERS, Bucket
from schemas.counters import add_counters
from schemas.fingerprints import Tally
from schemas.outcomes import Outcome

HOUR = datetime(2013, 7, 1, 4, tzinfo=UTC)
COUNTERS = {"flight_departed": {Outcome.RECEIVED: Tally.of_ids(["a", "b", "b"]), Outcome.DELIVERED: Tally.of_ids(["a", "b"])}}
PUBLISHED = PublishedReport("r1/1", "r1", "flight_departed", HOUR, Tally.of_ids(["a", "b", "b"]), Tally.of_ids(["a", "b"]))
DELIVERED = DeliveredReport(Bucket("flight_departed", HOUR), "lineage", 3, True, COUNTERS, 1)
DEAD = DeliveredReport(
    Bucket(DEAD_LETTERS, HOUR), "lineage", 1, False, {"": {Outcome.DEAD_LETTER: Tally()}}, 0, {"": {"no_type": 2}}
)


@pytest.mark.parametrize("report", [PUBLISHED, DELIVERED, DEAD])
def test_parse_report__inverts_to_json(report: PublishedReport | DeliveredReport) -> None:
    assert parse_report(report.to_json()) == report


def test_to_json__is_the_same_for_equal_reports() -> None:
    """The order in which counters were added does not change the bytes."""
    same = DeliveredReport(
        Bucket("flight_departed", HOUR),
        "lineage",
        3,
        True,
        {event_type: dict(reversed(tallies.items())) for event_type, tallies in COUNTERS.items()},
        1,
    )
    assert same.to_json() == DELIVERED.to_json()


def test_id__names_bucket_lineage_and_version() -> None:
    assert DELIVERED.id == "flight_departed/2013070104/lineage/v3"
    assert json.loads(DELIVERED.to_json())["id"] == DELIVERED.id


def changed(report: PublishedReport | DeliveredReport, **values: Any) -> bytes:
    return json.dumps({**json.loads(report.to_json()), **values}).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"nothing",
        b"[]",
        b"1",
        b"{}",
        b'{"report": "other"}',
        b'{"report": "published"}',
        changed(PUBLISHED, hour="yesterday"),
        changed(PUBLISHED, hour=5),
        changed(PUBLISHED, messages=5),
        changed(DELIVERED, bucket="nowhere"),
        changed(DELIVERED, lineage=5),
        changed(DELIVERED, counters=[]),
        changed(DELIVERED, counters={"flight_departed": {"lost": Tally().to_json()}}),
        b"[" * 100_000,
        changed(PUBLISHED, event_type=7),
        changed(PUBLISHED, event_type="\ud800"),
        changed(PUBLISHED, reporter="\ud800"),
        changed(PUBLISHED, id="\udfff"),
        changed(PUBLISHED, hour="2013-07-01T04:30:00Z"),
        changed(PUBLISHED, hour="0001-01-01T00:00:00Z"),
        changed(PUBLISHED, hour="0001-01-01T00:00:00+01:00"),
        changed(PUBLISHED, hour="1969-12-31T23:00:00Z"),
        changed(PUBLISHED, hour="9999-12-31T23:00:00Z"),
        changed(PUBLISHED, messages={"count": 10**30, "fingerprint": Tally().fingerprint}),
        changed(DELIVERED, bucket=7),
        changed(DELIVERED, bucket="/2013070104"),
        changed(DELIVERED, bucket="../up/2013070104"),
        changed(DELIVERED, bucket="Flight/2013070104"),
        changed(DELIVERED, bucket="flight_departed/201370104"),
        changed(DELIVERED, bucket="flight_departed/9999123123"),
        changed(DELIVERED, bucket="flight_departed/0001010100"),
        changed(DELIVERED, version="3"),
        changed(DELIVERED, version=0),
        changed(DELIVERED, version=True),
        changed(DELIVERED, version=3.0),
        changed(DELIVERED, closed="true"),
        changed(DELIVERED, closed=1),
        changed(DELIVERED, late=-1),
        changed(DELIVERED, late="1"),
        changed(DELIVERED, late=None),
        changed(DELIVERED, late=10**30),
        changed(DELIVERED, counters={"\ud800": {}}),
        changed(DELIVERED, reasons=[]),
        changed(DELIVERED, reasons={"a": 1}),
        changed(DELIVERED, reasons={"a": {"no_type": "1"}}),
        changed(DELIVERED, reasons={"a": {"no_type": -1}}),
        changed(DELIVERED, reasons={"a": {"\ud800": 1}}),
    ],
)
def test_parse_report__rejects_other_data(data: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_report(data)


@pytest.mark.parametrize(
    "data",
    [
        b'{"report": "secret"}',
        changed(PUBLISHED, hour="secret"),
        changed(DELIVERED, bucket="secret"),
        changed(DELIVERED, counters={"a": {"secret": {}}}),
        b'"secret"',
    ],
)
def test_parse_report__quotes_no_rejected_data(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a report") as error:
        parse_report(data)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("event_type", ["", "Podcast rated!", "../up", "ü"])
def test_parse_report__accepts_any_published_event_type(event_type: str) -> None:
    """A publisher counts events as its clients name them, even if no contract exists."""
    assert parse_report(changed(PUBLISHED, event_type=event_type)) == replace(PUBLISHED, event_type=event_type)


def test_add_counters__sums_each_outcome() -> None:
    other = {
        "flight_departed": {Outcome.DELIVERED: Tally.of_ids(["c"])},
        "flight_arrived": {Outcome.RECEIVED: Tally.of_ids(["d"])},
    }
    assert add_counters(COUNTERS, other) == {
        "flight_departed": {Outcome.RECEIVED: Tally.of_ids(["a", "b", "b"]), Outcome.DELIVERED: Tally.of_ids(["a", "b", "c"])},
        "flight_arrived": {Outcome.RECEIVED: Tally.of_ids(["d"])},
    }
    assert COUNTERS["flight_departed"][Outcome.DELIVERED] == Tally.of_ids(["a", "b"])
