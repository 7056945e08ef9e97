from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from schemas.buckets import Bucket
from storage.buckets.listing import open_hours
from storage.objects.local import Directory
from transforms.sweep.transform import hours_between

NINE = datetime(2026, 1, 31, 9, tzinfo=UTC)


def after(*hours: int) -> list[datetime]:
    return [NINE + timedelta(hours=hour) for hour in hours]


def test_silent_hours_between_two_with_events_are_filled() -> None:
    assert hours_between(after(5, 0, 2)) == after(0, 1, 2, 3, 4, 5)


def test_a_silence_of_more_than_a_day_parts_two_stretches() -> None:
    assert hours_between(after(0, 24)) == after(*range(25))
    assert hours_between(after(0, 25)) == after(0, 25)


def test_no_hours_are_between_none() -> None:
    assert hours_between([]) == []


def test_open_hours_are_those_begun_and_not_closed_since_a_day(tmp_path: Path) -> None:
    store = Directory(tmp_path)
    eight, ten = after(-1, 1)
    begun = [Bucket("a", NINE), Bucket("a", eight), Bucket("b", NINE), Bucket("c", ten)]
    long_ago = Bucket("a", NINE - timedelta(days=3))
    for bucket in [*begun, long_ago]:
        store.create(bucket.version_name(1), b"x")
    store.create(begun[0].success_name, b"")
    store.create(begun[0].loaded_name(1), b"")
    found = open_hours(store, ["a", "c"], NINE - timedelta(days=1))
    assert found == {eight, ten}


def test_an_hour_is_done_when_it_is_closed_and_its_newest_manifest_is_loaded(tmp_path: Path) -> None:
    store, bucket = Directory(tmp_path), Bucket("a", NINE)
    steps = [
        (bucket.version_name(1), {NINE}),
        (bucket.loaded_name(1), {NINE}),
        (bucket.version_name(2), {NINE}),
        (bucket.manifest_name, {NINE}),
        (bucket.success_name, {NINE}),
        (bucket.loaded_name(2), set()),
        (f"{bucket.folder}/part-1.avro", set()),
        (bucket.version_name(3), {NINE}),
        (bucket.loaded_name(3), set()),
    ]
    for name, left in steps:
        store.create(name, b"x")
        assert open_hours(store, ["a"], NINE) == left, name
