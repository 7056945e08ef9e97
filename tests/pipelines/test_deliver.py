"""Deliver in batch mode, from published messages to files, tables and manifests."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from schemas.buckets import DEAD_LETTERS, Bucket, hour_of
from storage.buckets.manifest import Manifest
from storage.objects.base import StoreError
from tests.support.clock import CLOCK, LAST_HOUR
from tests.support.delivery import FLIGHT_TYPES, LONG_AGO, World, flights, flights_by_hour, search
from tests.support.pubsub import pull_now, subscriber
from transforms.commit.commit import commit

pytestmark = pytest.mark.integration

IN_HOUR = LAST_HOUR + timedelta(minutes=5)


def delivered(world: World, stream: str = "search_made") -> list[str]:
    return [row["event_id"] for row in world.rows(stream)]


def counts(world: World, hour: datetime = LAST_HOUR, stream: str = "search_made") -> dict[str, int]:
    return world.manifests(stream)[hour]["counts"].get("search_made", {})


def in_table(world: World) -> list[str]:
    return [row[0] for row in world.query("SELECT event_id FROM search_made ORDER BY event_id")]


def test_deliver__flights(flights_world):
    """Files and tables have as many flights per type and hour as the source file."""
    world = flights_world
    world.publish(*flights())
    assert world.deliver(LONG_AGO) == 0

    files: Counter[tuple[str, str]] = Counter()
    table: Counter[tuple[str, str]] = Counter()
    closed = set()
    for kind in FLIGHT_TYPES:
        for row in world.rows(kind):
            files[kind, f"{row['received_at']:%Y-%m-%dT%H}"] += 1
        for hour, number in world.query(f"SELECT strftime(received_at, '%Y-%m-%dT%H') AS h, count(*) FROM {kind} GROUP BY h"):
            table[kind, hour] += number
        closed |= {(kind, f"{hour:%Y-%m-%dT%H}") for hour, manifest in world.manifests(kind).items() if manifest["closed"]}
        success = list(world.storage.glob(f"events/{kind}/dt=*/hour=*/_SUCCESS"))
        assert len(success) == 77
    expected = flights_by_hour()
    assert files == expected
    assert table == expected
    assert len(closed) == 4 * 77
    ids = {(attributes["event_type"], attributes["event_id"]) for _, attributes in flights()}
    assert {(kind, event_id) for kind in FLIGHT_TYPES for event_id in delivered(world, kind)} == ids
    assert world.undelivered() == 0


def test_deliver__event_published_several_times(world):
    """An event is delivered once, however often it is published, and the counters balance."""
    world.publish(search("a", IN_HOUR), search("b", IN_HOUR), search("a", IN_HOUR), search("a", IN_HOUR))
    world.deliver()
    assert delivered(world) == in_table(world) == ["a", "b"]
    assert counts(world) == {"received": 4, "delivered": 2, "duplicate": 2}


def test_deliver__duplicate_of_an_earlier_run(world):
    """Events that an earlier run has delivered are duplicates."""
    world.publish(search("a", IN_HOUR), search("b", IN_HOUR))
    world.deliver()
    world.publish(search("b", IN_HOUR), search("c", IN_HOUR))
    world.deliver()
    assert delivered(world) == in_table(world) == ["a", "b", "c"]
    assert counts(world) == {"received": 4, "delivered": 3, "duplicate": 1}
    assert world.manifests("search_made")[LAST_HOUR]["version"] == 2
    assert world.manifests("search_made")[LAST_HOUR]["late"] == 1
    # The writer found the duplicate in the index, so no file had to be rewritten without it.
    assert list((world.storage / "staging").rglob("part-*")) == []


def test_deliver__keeps_every_manifest_version(world):
    for event_id in "abc":
        world.publish(search(event_id, IN_HOUR))
        world.deliver()
    folder = world.storage / f"events/search_made/dt={LAST_HOUR:%Y-%m-%d}/hour={LAST_HOUR:%H}"
    versions = [json.loads(file.read_text()) for file in sorted((folder / "_receipts").glob("*.json"))]
    assert [(version["version"], version["rows"], version["late"]) for version in versions] == [(1, 1, 0), (2, 2, 1), (3, 3, 2)]
    assert (folder / "_RECEIPT.json").read_text() == (folder / "_receipts/000003.json").read_text()


def test_deliver__same_id_of_two_types(world):
    tap = {"event_type": "tap", "event_id": "same", "received_at": IN_HOUR.isoformat()}
    world.publish(search("same", IN_HOUR), (b'{"x": 1}', tap))
    world.deliver()
    assert delivered(world) == delivered(world, "tap") == ["same"]


def test_deliver__current_hour_stays_open(world, monkeypatch):
    """The current hour is delivered, and closed only when it is over."""
    now = CLOCK.now()
    world.publish(search("now"))
    world.deliver()
    hour = hour_of(now)
    [(hour, manifest)] = world.manifests("search_made").items()
    assert not manifest["closed"]
    assert not list(world.storage.rglob("_SUCCESS"))
    assert delivered(world) == in_table(world) == ["now"]

    monkeypatch.setattr("pipelines.deliver.utc_now", lambda: hour + timedelta(hours=1, seconds=1))
    world.deliver()
    assert {stream: world.manifests(stream)[hour]["closed"] for stream in ("search_made", "tap", DEAD_LETTERS)} == {
        "search_made": True,
        "tap": True,
        DEAD_LETTERS: True,
    }
    assert delivered(world) == in_table(world) == ["now"]


def test_deliver__closes_empty_buckets(world):
    """Buckets without events are closed too: of silent types, and of silent hours between."""
    world.publish(search("a", IN_HOUR), search("b", IN_HOUR - timedelta(hours=3)))
    world.deliver()
    hours = [LAST_HOUR - timedelta(hours=back) for back in (3, 2, 1, 0)]
    for stream in ("search_made", "tap", DEAD_LETTERS):
        assert {hour: manifest["closed"] for hour, manifest in world.manifests(stream).items()} == dict.fromkeys(hours, True)
    assert world.query("SELECT count(*) FROM tap") == [(0,)]


def test_deliver__skewed_event(world):
    """An event older than the allowed lateness is delivered to the hour of its publish time and keeps its stamp."""
    old = LAST_HOUR - timedelta(hours=30)
    world.publish(search("old", old), search("late", old + timedelta(hours=12)))
    before = CLOCK.now()
    world.deliver("--allowed_lateness=1d")
    rows = {row["event_id"]: row for row in world.rows("search_made")}
    assert rows["late"]["received_at"] == old + timedelta(hours=12)
    assert rows["late"]["skewed_from"] is None
    assert rows["old"]["skewed_from"] == old
    assert abs(rows["old"]["received_at"] - before) < timedelta(minutes=1)


def test_deliver__columns_and_unknown_fields(world):
    """Rows begin with the envelope's columns and keep unknown fields."""
    sent = "2026-01-31T09:30:00.5+01:00"
    message = {"event_type": "search_made", "event_id": "a", "received_at": IN_HOUR.isoformat(), "sent_at": sent}
    data = json.dumps({"words": "w", "results": 3, "mood": "blue", "more": {"deep": [1]}}).encode()
    [message_id] = world.publish((data, message))
    world.deliver()
    [row] = world.rows("search_made")
    names = [
        "event_id",
        "event_type",
        "schema_version",
        "received_at",
        "sent_at",
        "message_id",
        "unknown_fields",
        "skewed_from",
    ]
    assert list(row) == [*names, "words", "results", "language"]
    columns = [name for name, *_ in world.query("DESCRIBE search_made")]
    assert columns == list(row)
    assert json.loads(row.pop("unknown_fields")) == {"mood": "blue", "more": {"deep": [1]}}
    assert row == {
        "event_id": "a",
        "event_type": "search_made",
        "schema_version": 1,
        "received_at": IN_HOUR,
        "sent_at": datetime(2026, 1, 31, 8, 30, 0, 500000, UTC),
        "message_id": message_id,
        "skewed_from": None,
        "words": "w",
        "results": 3,
        "language": None,
    }


def test_deliver__no_id_and_no_stamp(world):
    """Without an event id the message id counts, without a stamp the publish time."""
    [message_id] = world.publish((b'{"words": "w", "results": 1}', {"event_type": "search_made"}))
    world.deliver()
    [row] = world.rows("search_made")
    assert row["event_id"] == row["message_id"] == message_id
    assert abs(row["received_at"] - CLOCK.now()) < timedelta(minutes=2)


def test_deliver__new_columns(world):
    world.publish(search("old", IN_HOUR))
    world.deliver()
    newer = json.loads((world.contracts / "search_made/v1.avsc").read_text())
    newer["fields"].append({"name": "voice", "type": "boolean", "default": False})
    (world.contracts / "search_made/v2.avsc").write_text(json.dumps(newer))
    data = b'{"words": "w", "results": 1, "voice": true}'
    attributes = {"event_type": "search_made", "received_at": IN_HOUR.isoformat()}
    world.publish((data, {**attributes, "event_id": "new"}), search("first", IN_HOUR, schema_version="1"))
    world.deliver()
    rows = world.query("SELECT event_id, schema_version, voice FROM search_made ORDER BY event_id")
    assert rows == [("first", 1, False), ("new", 2, True), ("old", 1, None)]


def test_deliver__no_unlisted_files(world):
    """A bucket's folder contains exactly the files that its manifest lists."""
    world.publish(search("a", IN_HOUR))
    world.deliver()
    world.publish(search("b", IN_HOUR))
    world.deliver()
    folder = world.storage / f"events/search_made/dt={LAST_HOUR:%Y-%m-%d}/hour={LAST_HOUR:%H}"
    listed = {
        data_file["name"]
        for commit in world.manifests("search_made")[LAST_HOUR]["commits"]
        for data_file in commit["data_files"]
    }
    assert {file.name for file in folder.glob("*.avro")} == listed
    assert len(listed) == 2


def test_deliver__next_run_loads_committed_files(world, monkeypatch):
    """Committed files are loaded by the next run, without their messages."""
    world.publish(search("a", IN_HOUR), search("b", IN_HOUR))

    def refuse(*_: object) -> None:
        raise RuntimeError("the table store is down")

    with monkeypatch.context() as patch:
        patch.setattr("storage.tables.duckdb_file.DuckDBFile.load", refuse)
        with pytest.raises(RuntimeError, match="the table store is down"):
            world.deliver()
    assert world.query("SELECT count(*) FROM information_schema.tables WHERE table_name = 'search_made'") == [(1,)]
    assert in_table(world) == []
    assert delivered(world) == ["a", "b"]
    assert world.undelivered() == 0
    world.deliver()
    assert delivered(world) == in_table(world) == ["a", "b"]
    assert counts(world) == {"received": 2, "delivered": 2, "duplicate": 0}


def test_deliver__acknowledges_per_bucket(world, monkeypatch):
    """If one bucket permanently can't be committed, only its messages are released; those of the others are acknowledged."""
    before = IN_HOUR - timedelta(hours=1)
    world.publish(search("a", IN_HOUR), search("b", IN_HOUR), search("c", before), search("d", before))

    def refuse(store: object, bucket: Bucket, *more: Any) -> tuple[Manifest, ...]:
        if bucket == Bucket("search_made", LAST_HOUR):
            raise StoreError("this bucket is broken")
        return commit(store, bucket, *more)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr("transforms.commit.transform.commit", refuse)
        with pytest.raises(StoreError, match="this bucket is broken"):
            world.deliver()
    assert LAST_HOUR not in world.manifests("search_made")
    with subscriber(world.address) as client:
        redelivered = pull_now(client, world.subscription)
        assert sorted(received.message.attributes["event_id"] for received in redelivered) == ["a", "b"]
        ack_ids = [received.ack_id for received in redelivered]
        client.modify_ack_deadline(subscription=world.subscription, ack_ids=ack_ids, ack_deadline_seconds=0)
    world.deliver()
    assert delivered(world) == in_table(world) == ["a", "b", "c", "d"]
    for hour in (LAST_HOUR, LAST_HOUR - timedelta(hours=1)):
        assert counts(world, hour) == {"received": 2, "delivered": 2, "duplicate": 0}
    assert world.undelivered() == 0


def test_deliver__earlier_run_died_in_mid_commit(world, monkeypatch):
    world.publish(search("a", IN_HOUR))

    def die(*_: object) -> None:
        raise RuntimeError("died")

    with monkeypatch.context() as patch:
        patch.setattr("transforms.commit.commit.publish_manifest", die)
        with pytest.raises(RuntimeError, match="died"):
            world.deliver()
    assert world.manifests("search_made") == {}
    assert list(world.storage.rglob("search_made/**/000001.json"))
    world.publish(search("b", IN_HOUR))
    world.deliver()
    assert delivered(world) == in_table(world) == ["a", "b"]
    assert counts(world)["delivered"] == 2


def test_deliver__lost_acknowledgement(world, monkeypatch):
    """Messages whose acknowledgement was lost are redelivered and become duplicates."""
    world.publish(search("a", IN_HOUR), search("b", IN_HOUR))
    with monkeypatch.context() as patch:
        patch.setattr("transforms.pubsub.leases.Leases.acknowledge", lambda *_: None)
        world.deliver()
    world.deliver()
    assert delivered(world) == in_table(world) == ["a", "b"]
    assert counts(world) == {"received": 4, "delivered": 2, "duplicate": 2}
    assert world.undelivered() == 0


def test_deliver__next_run_loads_an_old_hour(world, monkeypatch):
    """A later run loads a partition even if its hour is older than that run's allowed lateness."""
    old = LAST_HOUR - timedelta(days=5)
    world.publish(search("a", old))

    def refuse(*_: object) -> None:
        raise RuntimeError("the table store is down")

    with monkeypatch.context() as patch:
        patch.setattr("storage.tables.duckdb_file.DuckDBFile.load", refuse)
        with pytest.raises(RuntimeError, match="the table store is down"):
            world.deliver("--allowed_lateness=7d")
    assert in_table(world) == []
    world.deliver("--allowed_lateness=1d")
    assert in_table(world) == ["a"]
