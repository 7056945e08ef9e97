"""Reports on the audit topic say the same after a journey as JSON, and anything else is refused as no report."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from schemas.buckets import DEAD_LETTERS, Bucket
from schemas.fingerprints import Tally
from schemas.outcomes import Exit
from schemas.reports import Delivered, Published, add_books, parse_report

HOUR = datetime(2013, 7, 1, 4, tzinfo=UTC)
BOOKS = {"flight_departed": {Exit.RECEIVED: Tally.of_ids(["a", "b", "b"]), Exit.DELIVERED: Tally.of_ids(["a", "b"])}}
PUBLISHED = Published("r1/1", "r1", "flight_departed", HOUR, Tally.of_ids(["a", "b", "b"]), Tally.of_ids(["a", "b"]))
DELIVERED = Delivered(Bucket("flight_departed", HOUR), 3, True, BOOKS, 1)
DEAD = Delivered(Bucket(DEAD_LETTERS, HOUR), 1, False, {"": {Exit.DEAD_LETTER: Tally()}}, 0, {"": {"no_type": 2}})


@pytest.mark.parametrize("report", [PUBLISHED, DELIVERED, DEAD])
def test_a_report_is_read_back_whole(report: Published | Delivered) -> None:
    assert parse_report(report.to_json()) == report


def test_a_report_is_the_same_bytes_each_time() -> None:
    again = Delivered(
        Bucket("flight_departed", HOUR), 3, True, {kind: dict(reversed(one.items())) for kind, one in BOOKS.items()}, 1
    )
    assert again.to_json() == DELIVERED.to_json()


def test_the_id_of_what_was_delivered_names_bucket_and_version() -> None:
    assert DELIVERED.id == "flight_departed/2013070104/v3"
    assert json.loads(DELIVERED.to_json())["id"] == DELIVERED.id


def changed(report: Published | Delivered, **values: Any) -> bytes:
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
        changed(DELIVERED, books=[]),
        changed(DELIVERED, books={"flight_departed": {"lost": Tally().to_json()}}),
    ],
)
def test_what_is_no_report_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_report(data)


def test_books_add_up_exit_by_exit() -> None:
    other = {"flight_departed": {Exit.DELIVERED: Tally.of_ids(["c"])}, "flight_arrived": {Exit.RECEIVED: Tally.of_ids(["d"])}}
    assert add_books(BOOKS, other) == {
        "flight_departed": {Exit.RECEIVED: Tally.of_ids(["a", "b", "b"]), Exit.DELIVERED: Tally.of_ids(["a", "b", "c"])},
        "flight_arrived": {Exit.RECEIVED: Tally.of_ids(["d"])},
    }
    assert BOOKS["flight_departed"][Exit.DELIVERED] == Tally.of_ids(["a", "b"])
