"""When an event was received: from data that never change, so that each delivery comes to the same hour."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.buckets import hour_of
from schemas.envelope import MAX_CLOCK_SKEW, Stamp, format_time, parse_time, stamp
from schemas.outcomes import Reason, Rejected, Stage

PUBLISHED = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)
LATENESS = timedelta(hours=2)
MOMENTS = st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30), timezones=st.just(UTC))  # noqa: DTZ001


def stamp_of(text: str) -> Stamp:
    return stamp({"received_at": text}, PUBLISHED, LATENESS)


def refusal(text: str) -> Rejected:
    with pytest.raises(Rejected) as rejected:
        stamp_of(text)
    return rejected.value


@given(MOMENTS)
def test_times_are_read_back(moment: datetime) -> None:
    assert parse_time(format_time(moment)) == moment


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-31T09:30:00Z", PUBLISHED),
        ("2026-01-31t09:30:00z", PUBLISHED),
        ("2026-01-31 09:30:00Z", PUBLISHED),
        ("2026-01-31T11:00:00+01:30", PUBLISHED),
        ("2026-01-31T00:30:00-09:00", PUBLISHED),
        ("2026-01-31T09:30:00.5Z", PUBLISHED.replace(microsecond=500000)),
        ("2026-01-31T09:30:00.123456789Z", PUBLISHED.replace(microsecond=123456)),
    ],
)
def test_a_time_is_read_with_its_offset_and_cut_to_microseconds(text: str, expected: datetime) -> None:
    assert parse_time(text) == expected
    assert parse_time(text).utcoffset() == timedelta(0)


NO_TIMES = [
    "",
    "now",
    "1769851800",
    "2026-01-31",
    "2026-01-31T09:30:00",
    "2026-01-31T09:30Z",
    "2026-02-30T09:30:00Z",
    "2026-01-31T25:00:00Z",
    "2026-01-31T09:30:60Z",
    "2026-01-31T09:30:00.Z",
    "2026-01-31T09:30:00Z ",
    "2026-01-31T09:30:00+25:00",
    "\N{ARABIC-INDIC DIGIT TWO}026-01-31T09:30:00Z",
]


@pytest.mark.parametrize("text", [*NO_TIMES, "0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00"])
def test_an_unreadable_stamp_is_rejected(text: str) -> None:
    rejected = refusal(text)
    assert (rejected.stage, rejected.reason) == (Stage.ENVELOPE, Reason.UNREADABLE_RECEIVED_AT)


@pytest.mark.parametrize("text", NO_TIMES)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_time(text)


def test_without_a_stamp_the_publish_time_counts() -> None:
    assert stamp({}, PUBLISHED, LATENESS) == Stamp(PUBLISHED)


def test_the_edges_stamp_counts_where_there_is_one() -> None:
    assert stamp_of("2026-01-31T08:15:00Z") == Stamp(datetime(2026, 1, 31, 8, 15, tzinfo=UTC))


def test_an_edges_clock_may_run_ahead_by_the_clock_skew_and_no_more() -> None:
    edge = PUBLISHED + MAX_CLOCK_SKEW
    assert stamp_of(format_time(edge)) == Stamp(edge)
    rejected = refusal(format_time(edge + timedelta(microseconds=1)))
    assert (rejected.stage, rejected.reason) == (Stage.ENVELOPE, Reason.FUTURE_RECEIVED_AT)


def test_lateness_is_counted_from_the_end_of_the_hour() -> None:
    published = datetime(2026, 1, 31, 9, tzinfo=UTC)
    edge = {"received_at": "2026-01-31T06:00:00Z"}
    assert stamp(edge, published, LATENESS) == Stamp(datetime(2026, 1, 31, 6, tzinfo=UTC))
    late = published + timedelta(microseconds=1)
    assert stamp(edge, late, LATENESS) == Stamp(late, skewed_from=datetime(2026, 1, 31, 6, tzinfo=UTC))


@given(MOMENTS, st.timedeltas(timedelta(0), timedelta(days=1000)))
def test_an_event_always_comes_to_an_hour_that_is_open(published: datetime, lateness: timedelta) -> None:
    text = "2026-01-31T06:12:34Z"
    try:
        got = stamp({"received_at": text}, published, lateness)
    except Rejected:
        assert parse_time(text) > published + MAX_CLOCK_SKEW
        return
    assert got.skewed_from in (None, parse_time(text))
    assert published - (hour_of(got.received_at) + timedelta(hours=1)) <= lateness
