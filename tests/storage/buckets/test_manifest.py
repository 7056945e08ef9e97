from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import permutations

import pytest

from schemas.buckets import Bucket
from schemas.fingerprints import Tally
from schemas.outcomes import Outcome
from schemas.shards import Shard
from storage.buckets.committable import CLOSE_CHECK, Committable, DataFile, combine
from storage.buckets.duplicate_refs import Elsewhere
from storage.buckets.manifest import Manifest, ManifestError

HOUR = datetime(2026, 1, 31, 9, tzinfo=UTC)
NOW = HOUR + timedelta(hours=2)
BUCKET = Bucket("search_made", HOUR)


def committable(name: str, *ids: str, duplicates: int = 0) -> Committable:
    delivered = Tally.of_ids(ids)
    counters = {"search_made": {Outcome.DELIVERED: delivered, Outcome.DUPLICATE: Tally.of_ids(["d"] * duplicates)}}
    data_files = (DataFile(f"part-{name}.avro", Shard(0, 1), 10, 1, 2, delivered),) if ids else ()
    return Committable(name, counters, {"search_made": {"not_json": 1}}, data_files)


def test_a_repeated_committable_changes_nothing() -> None:
    one = Manifest(BUCKET).next(committable("one", "a"), NOW, close=False)
    assert one.next(committable("one", "a"), NOW + timedelta(minutes=1), close=False) is one


def test_the_order_of_committables_does_not_matter() -> None:
    works = [committable("one", "a"), committable("two", "b", "c", duplicates=2), committable("three")]
    outcomes = set()
    for order in permutations(works):
        manifest = Manifest(BUCKET)
        for work in order:
            manifest = manifest.next(work, NOW, close=False)
        duplicates = manifest.counters["search_made"][Outcome.DUPLICATE].count
        outcomes.add((manifest.version, manifest.ids, frozenset(manifest.data_files), duplicates))
    assert len(outcomes) == 1
    [(version, ids, _, duplicates)] = outcomes
    assert (version, ids, duplicates) == (3, Tally.of_ids("abc"), 2)


def test_rows_that_come_after_the_close_are_late_and_the_bucket_stays_closed() -> None:
    closed = Manifest(BUCKET).next(committable("one", "a"), NOW, close=True)
    later = closed.next(committable("two", "b", "c"), NOW + timedelta(hours=1), close=False)
    assert (closed.report().late, later.report().late) == (0, 2)
    assert later.closed_at == NOW
    assert later.version == 2


def test_closing_twice_is_one_version_and_an_empty_bucket_can_close() -> None:
    closed = Manifest(BUCKET).next(CLOSE_CHECK, NOW, close=True)
    assert (closed.version, closed.closed, closed.ids) == (1, True, Tally())
    assert closed.next(CLOSE_CHECK, NOW + timedelta(hours=1), close=True) is closed


def test_a_look_at_an_open_hour_leaves_no_manifest() -> None:
    assert Manifest(BUCKET).next(CLOSE_CHECK, NOW, close=False).version == 0


def test_combining_is_independent_of_order_and_counts_each_committable_once() -> None:
    one, two = committable("one", "a", duplicates=1), committable("two", "b")
    both = combine([one, two, one, CLOSE_CHECK])
    assert both == combine([CLOSE_CHECK, two, one])
    assert both.counters["search_made"][Outcome.DELIVERED] == Tally.of_ids("ab")
    assert both.reasons == {"search_made": {"not_json": 2}}
    assert combine([CLOSE_CHECK, CLOSE_CHECK]).is_empty


def test_what_a_combination_is_called_depends_on_what_is_in_it() -> None:
    assert combine([committable("one", "a")]).id != combine([committable("two", "a")]).id


def test_a_manifest_survives_json_and_shows_a_summary_to_people() -> None:
    manifest = Manifest(BUCKET).next(committable("one", "a", duplicates=1), NOW, close=True)
    manifest = manifest.next(committable("two", "b"), NOW, close=False)
    assert Manifest.from_json(manifest.to_json(), "r") == manifest
    told = json.loads(manifest.to_json())
    summary = {key: told[key] for key in ("stream", "hour", "version", "closed", "rows", "late", "counts")}
    assert summary == {
        "stream": "search_made",
        "hour": "2026-01-31T09:00:00Z",
        "version": 2,
        "closed": True,
        "rows": 2,
        "late": 1,
        "counts": {"search_made": {"delivered": 2, "duplicate": 1}},
    }


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("version",), "2"),
        (("version",), 0),
        (("version",), True),
        (("stream",), 7),
        (("hour",), None),
        (("closed",), "yes"),
        (("closed_at",), 5),
        (("commits",), {}),
        (("commits",), [3]),
        (("commits", 0, "id"), None),
        (("commits", 0, "late"), "0"),
        (("commits", 0, "counters"), []),
        (("commits", 0, "counters", "search_made", "delivered"), 1),
        (("commits", 0, "reasons"), {"search_made": {"not_json": "1"}}),
        (("commits", 0, "reasons"), "none"),
        (("commits", 0, "data_files"), None),
        (("commits", 0, "data_files", 0, "name"), 1),
        (("commits", 0, "data_files", 0, "name"), "../elsewhere.avro"),
        (("commits", 0, "data_files", 0, "shard"), 0),
        (("commits", 0, "data_files", 0, "size"), "10"),
        (("commits", 0, "data_files", 0, "crc32c"), None),
        (("commits", 0, "data_files", 0, "index_crc32c"), 1.5),
        (("commits", 0, "data_files", 0, "rows"), [1]),
    ],
)
def test_a_manifest_with_a_value_of_another_type_is_named(place: tuple[str | int, ...], value: object) -> None:
    told = json.loads(Manifest(BUCKET).next(committable("one", "a"), NOW, close=True).to_json())
    where = told
    for step in place[:-1]:
        where = where[step]
    assert place[-1] in where
    where[place[-1]] = value
    with pytest.raises(ManifestError, match=r"events/x/_RECEIPT\.json"):
        Manifest.from_json(json.dumps(told).encode(), "events/x/_RECEIPT.json")


def test_what_another_hour_holds_is_named_in_the_manifest_and_only_where_there_is_some() -> None:
    plain = committable("one", "a")
    work = replace(committable("two", duplicates=1), elsewhere=(Elsewhere("elsewhere-x.ids", 1, 7),))
    assert Committable.from_json(work.to_json()) == work
    both = combine([plain, work])
    assert both.elsewhere == work.elsewhere
    manifest = Manifest(BUCKET).next(both, NOW, close=True)
    assert Manifest.from_json(manifest.to_json(), "r").elsewhere == work.elsewhere
    assert b"elsewhere" not in Manifest(BUCKET).next(plain, NOW, close=True).to_json()


@pytest.mark.parametrize("damage", ["cut", "text", "other rows", "no commits", "empty"])
def test_a_damaged_manifest_is_named(damage: str) -> None:
    data = Manifest(BUCKET).next(committable("one", "a"), NOW, close=True).to_json()
    value = json.loads(data)
    damaged = {
        "cut": data[: len(data) // 2],
        "text": b"hello",
        "other rows": json.dumps({**value, "rows": 2}).encode(),
        "no commits": json.dumps({**value, "commits": None}).encode(),
        "empty": b"",
    }[damage]
    with pytest.raises(ManifestError, match=r"events/x/_RECEIPT\.json"):
        Manifest.from_json(damaged, "events/x/_RECEIPT.json")
