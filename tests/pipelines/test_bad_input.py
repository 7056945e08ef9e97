"""Each kind of bad message becomes a dead letter with a clear reason, and its neighbours are delivered."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from schemas.buckets import DEAD_LETTERS, hour_of
from tests.support.clock import CLOCK, LAST_HOUR
from tests.support.delivery import World, search

pytestmark = pytest.mark.integration

IN_HOUR = LAST_HOUR + timedelta(minutes=5)
STAMP = IN_HOUR.isoformat()
GOOD = b'{"words": "w", "results": 1}'

BAD: dict[str, tuple[bytes, dict[str, str], str, str]] = {
    "not JSON": (b'{"words": ', {}, "decode", "not_json"),
    "not an object": (b"[1]", {}, "decode", "not_json"),
    "cut Avro": (b"\x0ahal", {"content_type": "application/avro"}, "decode", "broken_avro"),
    "invalid UTF-8": (b'{"words": "\xff", "results": 1}', {}, "decode", "invalid_utf8"),
    "no type": (GOOD, {"event_type": ""}, "envelope", "no_type"),
    "unknown type": (GOOD, {"event_type": "no_such_type"}, "envelope", "unknown_type"),
    "a path for a type": (GOOD, {"event_type": "../../../tmp/x"}, "envelope", "unknown_type"),
    "unknown version": (GOOD, {"schema_version": "7"}, "envelope", "unknown_version"),
    "a version that is no number": (GOOD, {"schema_version": "new"}, "envelope", "unknown_version"),
    "missing field": (b'{"words": "w"}', {}, "validate", "missing_field"),
    "wrong type": (b'{"words": "w", "results": "many"}', {}, "validate", "wrong_type"),
    "int out of range": (b'{"words": "w", "results": 3000000000}', {}, "validate", "out_of_range"),
    "unreadable received_at": (GOOD, {"received_at": "yesterday"}, "envelope", "unreadable_received_at"),
    "future received_at": (GOOD, {"received_at": "2999-01-01T00:00:00Z"}, "envelope", "future_received_at"),
    "unreadable sent_at": (GOOD, {"sent_at": "soon"}, "envelope", "bad_attribute"),
    "unknown content type": (GOOD, {"content_type": "text/csv"}, "envelope", "unknown_content_type"),
    "empty payload": (b"", {}, "decode", "empty_payload"),
    "a payload of 9 MB": (b'{"words": "' + b"w" * 9_000_000 + b'", "results": 1}', {}, "decode", "payload_too_large"),
}


def message(name: str) -> tuple[bytes, dict[str, str]]:
    data, attributes, _, _ = BAD[name]
    return data, {"event_type": "search_made", "event_id": name, "received_at": STAMP, **attributes}


def test_deliver__bad_messages(world: World) -> None:
    """Each bad message is stored whole as a dead letter, and its neighbours are delivered."""
    sent = {}
    for name in BAD:
        [message_id, _] = world.publish(message(name), search(f"beside {name}", IN_HOUR))
        sent[message_id] = name
    assert world.deliver() == 0

    assert {row["event_id"] for row in world.rows("search_made")} == {f"beside {name}" for name in BAD}
    found = {sent[row["message_id"]]: row for row in world.rows(DEAD_LETTERS)}
    assert {name: (row["stage"], row["reason"]) for name, row in found.items()} == {
        name: (stage, reason) for name, (_, _, stage, reason) in BAD.items()
    }
    for name, row in found.items():
        data, attributes = message(name)
        assert row["data"] == data
        assert row["attributes"] == attributes
        assert row["event_id"] == name
        assert row["event_type"] == attributes["event_type"]
        assert row["detail"]
        by_stamp = row["reason"] not in ("unreadable_received_at", "future_received_at")
        assert row["received_at"] == (IN_HOUR if by_stamp else row["published_at"])
        assert abs(row["published_at"] - CLOCK.now()) < timedelta(minutes=5)

    in_table = world.query("SELECT event_id, reason, octet_length(data) FROM dead_letters")
    assert set(in_table) == {(name, reason, len(data)) for name, (data, _, _, reason) in BAD.items()}
    assert world.undelivered() == 0


def test_deliver__dead_letters_counted_by_claimed_type(world: World) -> None:
    world.publish(*[message(name) for name in ("not JSON", "wrong type", "unknown type")])
    world.publish(message("not JSON"))
    world.deliver()
    manifest = world.manifests(DEAD_LETTERS)[LAST_HOUR]
    assert manifest["counts"] == {
        "search_made": {"received": 3, "dead_letter": 3, "duplicate": 0},
        "no_such_type": {"received": 1, "dead_letter": 1, "duplicate": 0},
    }
    assert manifest["reasons"] == {"search_made": {"not_json": 2, "wrong_type": 1}, "no_such_type": {"unknown_type": 1}}
    # An hour of nothing but dead letters has an empty bucket of the event type, closed like any other.
    assert world.manifests("search_made")[LAST_HOUR]["rows"] == 0


def test_deliver__redelivered_dead_letter(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.publish(message("not JSON"))
    with monkeypatch.context() as patch:
        patch.setattr("transforms.pubsub.leases.Leases.acknowledge", lambda *_: None)
        world.deliver()
    world.deliver()
    assert [row["reason"] for row in world.rows(DEAD_LETTERS)] == ["not_json"]
    manifest = world.manifests(DEAD_LETTERS)[LAST_HOUR]
    assert manifest["counts"] == {"search_made": {"received": 2, "dead_letter": 1, "duplicate": 1}}


def test_deliver__dead_letter_without_a_readable_stamp(world: World) -> None:
    """A dead letter without a readable stamp is stored in the hour of its publish time."""
    world.publish(message("unreadable received_at"))
    world.deliver()
    assert list(world.manifests(DEAD_LETTERS)) == [hour_of(CLOCK.now())]


def test_deliver__detail_quotes_no_payload(world: World) -> None:
    secret = "4111111111111111"
    attributes = {"event_type": "search_made", "received_at": STAMP}
    world.publish(
        (json.dumps({"words": 1, "results": secret}).encode(), attributes),
        (json.dumps({"results": int(secret), "words": secret}).encode(), attributes),
        (secret.encode(), attributes),
        (f'{{"words": "{secret}'.encode(), attributes),
    )
    world.deliver()
    details = [row["detail"] for row in world.rows(DEAD_LETTERS)]
    assert len(details) == 4
    assert not [detail for detail in details if secret in detail]
