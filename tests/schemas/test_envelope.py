"""The time of receipt depends only on data that never change, so that every redelivery goes to the same hour."""

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
def test_parse_time__inverts_format_time(moment: datetime) -> None:
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
def test_parse_time__converts_to_utc_and_truncates(text: str, expected: datetime) -> None:
    """A time is converted to UTC and truncated to microseconds."""
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
def test_stamp__rejects_an_unreadable_attribute(text: str) -> None:
    rejected = refusal(text)
    assert (rejected.stage, rejected.reason) == (Stage.ENVELOPE, Reason.UNREADABLE_RECEIVED_AT)


@pytest.mark.parametrize("text", NO_TIMES)
def test_parse_time__rejects_other_texts(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_time(text)


def test_stamp__is_the_publish_time_without_an_attribute() -> None:
    assert stamp({}, PUBLISHED, LATENESS) == Stamp(PUBLISHED)


def test_stamp__is_the_attribute_of_an_edge_server() -> None:
    assert stamp_of("2026-01-31T08:15:00Z") == Stamp(datetime(2026, 1, 31, 8, 15, tzinfo=UTC))


def test_stamp__rejects_more_than_the_maximum_clock_skew() -> None:
    """The clock of an edge server may be ahead by exactly the maximum."""
    edge = PUBLISHED + MAX_CLOCK_SKEW
    assert stamp_of(format_time(edge)) == Stamp(edge)
    rejected = refusal(format_time(edge + timedelta(microseconds=1)))
    assert (rejected.stage, rejected.reason) == (Stage.ENVELOPE, Reason.FUTURE_RECEIVED_AT)


def test_stamp__measures_lateness_from_the_end_of_the_hour() -> None:
    published = datetime(2026, 1, 31, 9, tzinfo=UTC)
    edge = {"received_at": "2026-01-31T06:00:00Z"}
    assert stamp(edge, published, LATENESS) == Stamp(datetime(2026, 1, 31, 6, tzinfo=UTC))
    late = published + timedelta(microseconds=1)
    assert stamp(edge, late, LATENESS) == Stamp(late, skewed_from=datetime(2026, 1, 31, 6, tzinfo=UTC))


@given(MOMENTS, st.timedeltas(timedelta(0), timedelta(days=1000)))
def test_stamp__is_always_in_an_open_hour(published: datetime, lateness: timedelta) -> None:
    text = "2026-01-31T06:12:34Z"
    try:
        got = stamp({"received_at": text}, published, lateness)
    except Rejected:
        assert parse_time(text) > published + MAX_CLOCK_SKEW
        return
    assert got.skewed_from in (None, parse_time(text))
    assert published - (hour_of(got.received_at) + timedelta(hours=1)) <= lateness
