"""Hours that are unfinished, or have no events."""

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


def test_hours_between__fills_gaps() -> None:
    """Hours without events between two with events are included."""
    assert hours_between(after(5, 0, 2)) == after(0, 1, 2, 3, 4, 5)


def test_hours_between__long_gap() -> None:
    """A gap of more than a day is not filled."""
    assert hours_between(after(0, 24)) == after(*range(25))
    assert hours_between(after(0, 25)) == after(0, 25)


def test_hours_between__nothing() -> None:
    """No hours have no hours between them."""
    assert hours_between([]) == []


def test_open_hours__since(tmp_path: Path) -> None:
    """Unfinished hours of the given streams are returned, from the given day on."""
    store = Directory(tmp_path)
    eight, ten = after(-1, 1)
    begun = [Bucket("a", NINE), Bucket("a", eight), Bucket("b", NINE), Bucket("c", ten)]
    long_ago = Bucket("a", NINE - timedelta(days=3))
    for bucket in [*begun, long_ago]:
        store.create(bucket.version_name(1), b"x")
    store.create(begun[0].success_name, b"")
    store.create(begun[0].loaded_name(1), b"")
    assert open_hours(store, ["a", "c"], NINE - timedelta(days=1)) == {eight, ten}


def test_open_hours__until_loaded(tmp_path: Path) -> None:
    """An hour is unfinished until it is closed and its newest manifest is loaded."""
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
    for name, unfinished in steps:
        store.create(name, b"x")
        assert open_hours(store, ["a"], NINE) == unfinished, name
