"""Manifests and committables."""

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


def test_next__repeated_committable() -> None:
    """A repeated committable changes nothing."""
    manifest = Manifest(BUCKET).next(committable("one", "a"), NOW, close=False)
    assert manifest.next(committable("one", "a"), NOW + timedelta(minutes=1), close=False) is manifest


def test_next__any_order() -> None:
    """Committables in any order result in the same files and counters."""
    committables = [committable("one", "a"), committable("two", "b", "c", duplicates=2), committable("three")]
    outcomes = set()
    for order in permutations(committables):
        manifest = Manifest(BUCKET)
        for added in order:
            manifest = manifest.next(added, NOW, close=False)
        duplicates = manifest.counters["search_made"][Outcome.DUPLICATE].count
        outcomes.add((manifest.version, manifest.ids, frozenset(manifest.data_files), duplicates))
    assert len(outcomes) == 1
    [(version, ids, _, duplicates)] = outcomes
    assert (version, ids, duplicates) == (3, Tally.of_ids("abc"), 2)


def test_next__after_close() -> None:
    """Rows that are added after the close are late, and the bucket stays closed."""
    closed = Manifest(BUCKET).next(committable("one", "a"), NOW, close=True)
    later = closed.next(committable("two", "b", "c"), NOW + timedelta(hours=1), close=False)
    assert (closed.report().late, later.report().late) == (0, 2)
    assert later.closed_at == NOW
    assert later.version == 2


def test_next__closed_twice() -> None:
    """An empty bucket can close, and a second close makes no version."""
    closed = Manifest(BUCKET).next(CLOSE_CHECK, NOW, close=True)
    assert (closed.version, closed.closed, closed.ids) == (1, True, Tally())
    assert closed.next(CLOSE_CHECK, NOW + timedelta(hours=1), close=True) is closed


def test_next__check_of_open_hour() -> None:
    """A close check of an open hour makes no version."""
    assert Manifest(BUCKET).next(CLOSE_CHECK, NOW, close=False).version == 0


def test_combine__any_order_and_repeats() -> None:
    """The result does not depend on the order, and counts a repeated committable once."""
    one, two = committable("one", "a", duplicates=1), committable("two", "b")
    both = combine([one, two, one, CLOSE_CHECK])
    assert both == combine([CLOSE_CHECK, two, one])
    assert both.counters["search_made"][Outcome.DELIVERED] == Tally.of_ids("ab")
    assert both.reasons == {"search_made": {"not_json": 2}}
    assert combine([CLOSE_CHECK, CLOSE_CHECK]).is_empty


def test_combine__id() -> None:
    """Combinations of different committables have different ids."""
    assert combine([committable("one", "a")]).id != combine([committable("two", "a")]).id


def test_to_json__round_trip_and_summary() -> None:
    """A manifest is equal after a round trip through JSON, which begins with a summary."""
    manifest = Manifest(BUCKET).next(committable("one", "a", duplicates=1), NOW, close=True)
    manifest = manifest.next(committable("two", "b"), NOW, close=False)
    assert Manifest.from_json(manifest.to_json(), "r") == manifest
    value = json.loads(manifest.to_json())
    summary = {key: value[key] for key in ("stream", "hour", "version", "closed", "rows", "late", "counts")}
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
def test_from_json__invalid_value(place: tuple[str | int, ...], value: object) -> None:
    """The error names a manifest with an invalid value."""
    manifest = json.loads(Manifest(BUCKET).next(committable("one", "a"), NOW, close=True).to_json())
    parent = manifest
    for step in place[:-1]:
        parent = parent[step]
    assert place[-1] in parent
    parent[place[-1]] = value
    with pytest.raises(ManifestError, match=r"events/x/_RECEIPT\.json"):
        Manifest.from_json(json.dumps(manifest).encode(), "events/x/_RECEIPT.json")


def test_to_json__elsewhere() -> None:
    """Files of duplicates of another hour are in the manifest, if there are any."""
    plain = committable("one", "a")
    with_refs = replace(committable("two", duplicates=1), elsewhere=(Elsewhere("elsewhere-x.ids", 1, 7),))
    assert Committable.from_json(with_refs.to_json()) == with_refs
    both = combine([plain, with_refs])
    assert both.elsewhere == with_refs.elsewhere
    manifest = Manifest(BUCKET).next(both, NOW, close=True)
    assert Manifest.from_json(manifest.to_json(), "r").elsewhere == with_refs.elsewhere
    assert b"elsewhere" not in Manifest(BUCKET).next(plain, NOW, close=True).to_json()


@pytest.mark.parametrize("damage", ["cut", "text", "other rows", "no commits", "empty"])
def test_from_json__damaged(damage: str) -> None:
    """The error names a damaged manifest."""
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
