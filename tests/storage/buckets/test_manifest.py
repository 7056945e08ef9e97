from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import permutations

import pytest

from schemas.buckets import Bucket
from schemas.fingerprints import Tally
from schemas.outcomes import Exit
from schemas.shards import Shard
from storage.buckets.committable import LOOK, Contribution, Part, combine
from storage.buckets.duplicate_refs import Elsewhere
from storage.buckets.manifest import Receipt, ReceiptError

HOUR = datetime(2026, 1, 31, 9, tzinfo=UTC)
NOW = HOUR + timedelta(hours=2)
BUCKET = Bucket("search_made", HOUR)


def contribution(name: str, *ids: str, duplicates: int = 0) -> Contribution:
    delivered = Tally.of_ids(ids)
    books = {"search_made": {Exit.DELIVERED: delivered, Exit.DUPLICATE: Tally.of_ids(["d"] * duplicates)}}
    parts = (Part(f"part-{name}.avro", Shard(0, 1), 10, 1, 2, delivered),) if ids else ()
    return Contribution(name, books, {"search_made": {"not_json": 1}}, parts)


def test_a_repeated_contribution_changes_nothing() -> None:
    one = Receipt(BUCKET).next(contribution("one", "a"), NOW, close=False)
    assert one.next(contribution("one", "a"), NOW + timedelta(minutes=1), close=False) is one


def test_the_order_of_contributions_does_not_matter() -> None:
    works = [contribution("one", "a"), contribution("two", "b", "c", duplicates=2), contribution("three")]
    outcomes = set()
    for order in permutations(works):
        receipt = Receipt(BUCKET)
        for work in order:
            receipt = receipt.next(work, NOW, close=False)
        duplicates = receipt.books["search_made"][Exit.DUPLICATE].count
        outcomes.add((receipt.version, receipt.ids, frozenset(receipt.parts), duplicates))
    assert len(outcomes) == 1
    [(version, ids, _, duplicates)] = outcomes
    assert (version, ids, duplicates) == (3, Tally.of_ids("abc"), 2)


def test_rows_that_come_after_the_close_are_late_and_the_bucket_stays_closed() -> None:
    closed = Receipt(BUCKET).next(contribution("one", "a"), NOW, close=True)
    later = closed.next(contribution("two", "b", "c"), NOW + timedelta(hours=1), close=False)
    assert (closed.report().late, later.report().late) == (0, 2)
    assert later.closed_at == NOW
    assert later.version == 2


def test_closing_twice_is_one_version_and_an_empty_bucket_can_close() -> None:
    closed = Receipt(BUCKET).next(LOOK, NOW, close=True)
    assert (closed.version, closed.closed, closed.ids) == (1, True, Tally())
    assert closed.next(LOOK, NOW + timedelta(hours=1), close=True) is closed


def test_a_look_at_an_open_hour_leaves_no_receipt() -> None:
    assert Receipt(BUCKET).next(LOOK, NOW, close=False).version == 0


def test_combining_is_independent_of_order_and_counts_each_contribution_once() -> None:
    one, two = contribution("one", "a", duplicates=1), contribution("two", "b")
    both = combine([one, two, one, LOOK])
    assert both == combine([LOOK, two, one])
    assert both.books["search_made"][Exit.DELIVERED] == Tally.of_ids("ab")
    assert both.reasons == {"search_made": {"not_json": 2}}
    assert combine([LOOK, LOOK]).is_empty


def test_what_a_combination_is_called_depends_on_what_is_in_it() -> None:
    assert combine([contribution("one", "a")]).id != combine([contribution("two", "a")]).id


def test_a_receipt_survives_json_and_shows_a_summary_to_people() -> None:
    receipt = Receipt(BUCKET).next(contribution("one", "a", duplicates=1), NOW, close=True)
    receipt = receipt.next(contribution("two", "b"), NOW, close=False)
    assert Receipt.from_json(receipt.to_json(), "r") == receipt
    told = json.loads(receipt.to_json())
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
        (("commits", 0, "books"), []),
        (("commits", 0, "books", "search_made", "delivered"), 1),
        (("commits", 0, "reasons"), {"search_made": {"not_json": "1"}}),
        (("commits", 0, "reasons"), "none"),
        (("commits", 0, "parts"), None),
        (("commits", 0, "parts", 0, "name"), 1),
        (("commits", 0, "parts", 0, "name"), "../elsewhere.avro"),
        (("commits", 0, "parts", 0, "shard"), 0),
        (("commits", 0, "parts", 0, "size"), "10"),
        (("commits", 0, "parts", 0, "crc32c"), None),
        (("commits", 0, "parts", 0, "index_crc32c"), 1.5),
        (("commits", 0, "parts", 0, "rows"), [1]),
    ],
)
def test_a_receipt_with_a_value_of_another_type_is_named(place: tuple[str | int, ...], value: object) -> None:
    told = json.loads(Receipt(BUCKET).next(contribution("one", "a"), NOW, close=True).to_json())
    where = told
    for step in place[:-1]:
        where = where[step]
    assert place[-1] in where
    where[place[-1]] = value
    with pytest.raises(ReceiptError, match=r"events/x/_RECEIPT\.json"):
        Receipt.from_json(json.dumps(told).encode(), "events/x/_RECEIPT.json")


def test_what_another_hour_holds_is_named_in_the_receipt_and_only_where_there_is_some() -> None:
    plain = contribution("one", "a")
    work = replace(contribution("two", duplicates=1), elsewhere=(Elsewhere("elsewhere-x.ids", 1, 7),))
    assert Contribution.from_json(work.to_json()) == work
    both = combine([plain, work])
    assert both.elsewhere == work.elsewhere
    receipt = Receipt(BUCKET).next(both, NOW, close=True)
    assert Receipt.from_json(receipt.to_json(), "r").elsewhere == work.elsewhere
    assert b"elsewhere" not in Receipt(BUCKET).next(plain, NOW, close=True).to_json()


@pytest.mark.parametrize("damage", ["cut", "text", "other rows", "no commits", "empty"])
def test_a_damaged_receipt_is_named(damage: str) -> None:
    data = Receipt(BUCKET).next(contribution("one", "a"), NOW, close=True).to_json()
    value = json.loads(data)
    damaged = {
        "cut": data[: len(data) // 2],
        "text": b"hello",
        "other rows": json.dumps({**value, "rows": 2}).encode(),
        "no commits": json.dumps({**value, "commits": None}).encode(),
        "empty": b"",
    }[damage]
    with pytest.raises(ReceiptError, match=r"events/x/_RECEIPT\.json"):
        Receipt.from_json(damaged, "events/x/_RECEIPT.json")
