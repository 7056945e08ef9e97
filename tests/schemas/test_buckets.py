"""Names of buckets: unique for each stream and hour, and parsed back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.buckets import DEAD_LETTERS, Bucket, bucket_of, hour_of, stream_folder

HOUR = datetime(2013, 7, 1, 4, tzinfo=UTC)
# Names do not pad years before 1000. No bucket has such an hour: a stamp older than the allowed lateness does not decide it.
MOMENTS = st.datetimes(min_value=datetime(1000, 1, 1), max_value=datetime(9999, 12, 30), timezones=st.just(UTC))  # noqa: DTZ001
STREAMS = st.from_regex(r"[a-z][a-z0-9_]{0,99}", fullmatch=True)


@given(MOMENTS, st.integers(-14 * 60, 14 * 60))
def test_hour_of__is_the_utc_hour_that_contains_the_moment(moment: datetime, offset: int) -> None:
    hour = hour_of(moment.astimezone(timezone(timedelta(minutes=offset))))
    assert hour <= moment < hour + timedelta(hours=1)
    assert (hour.utcoffset(), hour.minute, hour.second, hour.microsecond) == (timedelta(0), 0, 0, 0)


def test_hour_of__rejects_a_moment_without_time_zone() -> None:
    with pytest.raises(ValueError, match="no time zone"):
        hour_of(datetime(2013, 7, 1))  # noqa: DTZ001


@pytest.mark.parametrize("wrong", [HOUR + timedelta(seconds=1), HOUR + timedelta(microseconds=1)])
def test_bucket__must_begin_at_the_start_of_an_hour(wrong: datetime) -> None:
    with pytest.raises(ValueError, match="not the start of an hour"):
        Bucket("flight_departed", wrong)


def test_bucket__names_of_an_event_type() -> None:
    bucket = Bucket("flight_departed", HOUR)
    assert bucket.key == "flight_departed/2013070104"
    assert bucket.folder == "events/flight_departed/dt=2013-07-01/hour=04"
    assert bucket.manifest_name == "events/flight_departed/dt=2013-07-01/hour=04/_RECEIPT.json"
    assert bucket.success_name == "events/flight_departed/dt=2013-07-01/hour=04/_SUCCESS"
    assert bucket.version_name(7) == "events/flight_departed/dt=2013-07-01/hour=04/_receipts/000007.json"
    assert bucket.end == datetime(2013, 7, 1, 5, tzinfo=UTC)


def test_bucket__names_of_dead_letters() -> None:
    assert Bucket(DEAD_LETTERS, HOUR).folder == "dead_letters/dt=2013-07-01/hour=04"
    assert stream_folder(DEAD_LETTERS) == "dead_letters"


@given(STREAMS, MOMENTS.map(hour_of))
def test_from_key__and_bucket_of_invert_the_names(stream: str, hour: datetime) -> None:
    bucket = Bucket(stream, hour)
    assert Bucket.from_key(bucket.key) == bucket
    assert bucket_of(bucket.manifest_name) == bucket
    assert bucket_of(bucket.version_name(1)) == bucket


@pytest.mark.parametrize("key", ["", "flight_departed", "/2013070104", "flight_departed/", "flight_departed/2013070124", "a/b"])
def test_from_key__rejects_other_texts(key: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Bucket.from_key(key)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "events",
        "events/flight_departed/dt=2013-07-01/hour=04",
        "events/flight_departed/dt=2013-07-01/hour=24/_RECEIPT.json",
        "events/flight_departed/hour=04/dt=2013-07-01/_RECEIPT.json",
        "staging/events/flight_departed/dt=2013-07-01/hour=04/part.avro",
        "other/flight_departed/dt=2013-07-01/hour=04/_RECEIPT.json",
    ],
)
def test_bucket_of__an_object_outside_every_bucket(name: str) -> None:
    assert bucket_of(name) is None


def test_bucket__is_ordered_by_stream_and_hour() -> None:
    later = HOUR + timedelta(hours=1)
    buckets = [Bucket("b", HOUR), Bucket("a", later), Bucket("a", HOUR)]
    assert sorted(buckets) == [Bucket("a", HOUR), Bucket("a", later), Bucket("b", HOUR)]
