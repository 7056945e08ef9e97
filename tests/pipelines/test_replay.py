"""Replay: dead letters that are delivered after all, and counters that stay balanced."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.pubsub_v1 import PublisherClient
from google.pubsub_v1.types import PublishRequest, PubsubMessage

from cli.command import UserError
from pipelines import replay
from schemas.buckets import DEAD_LETTERS, HOUR, Bucket, hour_of
from tests.support.clock import CLOCK, LAST_HOUR
from tests.support.delivery import World, search
from tests.support.pubsub import make_topic, publisher, pull_now, subscriber
from transforms.pubsub.retry import PubSubError, with_retry

pytestmark = pytest.mark.integration

IN_HOUR = LAST_HOUR + timedelta(minutes=5)
REFUSED = {"event_type": "song_liked", "received_at": IN_HOUR.isoformat(), "colour": "red"}
"""A type that has no contract yet."""
LIKED = b'{"song": "s"}'


def add_contract(world: World) -> None:
    folder = world.contracts / "song_liked"
    folder.mkdir()
    schema = {"type": "record", "name": "song_liked", "fields": [{"name": "song", "type": "string"}]}
    (folder / "v1.avsc").write_text(json.dumps(schema))


def run(world: World, *more: str, reasons: tuple[str, ...] = ("unknown_type",), hour: datetime = LAST_HOUR) -> int:
    flags = [f"--storage={world.storage}", f"--topic={world.topic}", f"--hours={hour:%Y-%m-%dT%H}..{hour:%Y-%m-%dT%H}"]
    return replay.main([*flags, *(f"--reason={reason}" for reason in reasons), *more])


def audit_of(world: World, hour: datetime = LAST_HOUR) -> dict[str, dict[str, Any]]:
    world.audit(f"--hours={hour:%Y-%m-%dT%H}..{hour:%Y-%m-%dT%H}")
    return {
        row["event_type"]: row for row in json.loads(world.verdicts.read_text()) if row["hour"][:13] == f"{hour:%Y-%m-%dT%H}"
    }


def dead(world: World) -> list[tuple[str, str]]:
    """Return message and event ids of the dead letters in files, after comparing them with the table."""
    rows = [(row["message_id"], row["event_id"]) for row in world.rows(DEAD_LETTERS)]
    assert world.query("SELECT message_id, event_id FROM dead_letters ORDER BY message_id") == rows
    return rows


def report_hour(world: World, liked: list[str]) -> None:
    world.report("song_liked", LAST_HOUR, liked)
    world.report("search_made", LAST_HOUR, ["good", "broken"])
    world.report("tap", LAST_HOUR, [])


def deliver_some(world: World) -> list[str]:
    """Deliver three dead letters of a type without a contract, one of them without event id, and another one.

    Returns:
        the three event ids
    """
    [_, _, plain, *_] = world.publish(
        (LIKED, {**REFUSED, "event_id": "x", "dedup_key": "of x"}),
        (LIKED, {**REFUSED, "event_id": "y", "sent_at": "2026-01-31T09:30:00Z"}),
        (LIKED, REFUSED),
        search("good", IN_HOUR),
        (b"{", search("broken", IN_HOUR)[1]),
    )
    world.deliver()
    report_hour(world, ["x", "y", plain])
    return ["x", "y", plain]


def test_replay__delivers_dead_letters(world: World) -> None:
    """Dead letters are delivered after a replay, and the verdict is COMPLETE."""
    ids = deliver_some(world)
    before = dead(world)
    add_contract(world)
    assert run(world) == 0
    world.deliver()
    rows = {row["event_id"]: row for row in world.rows("song_liked")}
    assert set(rows) == set(ids)
    assert {row["received_at"] for row in rows.values()} == {IN_HOUR}
    assert rows["y"]["sent_at"] == datetime(2026, 1, 31, 9, 30, tzinfo=UTC)
    assert world.query("SELECT event_id FROM song_liked ORDER BY 1") == [(event_id,) for event_id in sorted(ids)]
    # The dead letters themselves are kept.
    assert dead(world) == before
    found = audit_of(world)
    assert {kind: (row["status"], row["findings"]) for kind, row in found.items()} == dict.fromkeys(
        ("search_made", "song_liked", "tap"), ("COMPLETE", [])
    )
    numbers = ("published", "received", "in_files", "dead_letters", "duplicates")
    assert [found["song_liked"][name] for name in numbers] == [3, 6, 3, 3, 0]


def test_replay__repeated(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """A repeated replay publishes no delivered event and changes nothing."""
    deliver_some(world)
    add_contract(world)
    run(world)
    # Not delivered yet: published once more.
    run(world)
    world.deliver()
    rows, dead_letters = world.rows("song_liked"), dead(world)
    capsys.readouterr()
    assert run(world) == 0
    assert "0 dead letters published again; 3 delivered already, and skipped" in capsys.readouterr().out
    assert world.undelivered() == 0
    assert (world.rows("song_liked"), dead(world)) == (rows, dead_letters)
    assert len(rows) == 3
    assert audit_of(world)["song_liked"]["status"] == "COMPLETE"
    assert audit_of(world)["song_liked"]["duplicates"] == 3


def test_replay__refused_again(world: World) -> None:
    """A message that is refused again stays one dead letter, however often it is replayed."""
    deliver_some(world)
    before = dead(world)
    for _ in range(2):
        run(world, reasons=("unknown_type", "not_json"))
        world.deliver()
    assert dead(world) == before
    found = audit_of(world)
    assert {row["status"] for row in found.values()} == {"COMPLETE"}
    assert (found["song_liked"]["dead_letters"], found["song_liked"]["duplicates"]) == (3, 6)


def test_replay__replaces_unusable_stamp(world: World) -> None:
    """An unusable stamp is replaced by the time that decided the hour.

    Otherwise the message would go to the hour of the replay, where its dead letter is not found.
    """
    stamps = {"odd": "yesterday", "ahead": (CLOCK.now() + timedelta(hours=2)).isoformat(), "none": None}
    broken = {"ahead": b'{"words": "w", "results": 1}', "odd": b'{"words": "w", "results": 1}', "none": b"{"}
    for name, text in stamps.items():
        attributes = {**search(name)[1], **({"received_at": text} if text else {})}
        world.publish((broken[name], attributes))
    world.deliver()
    dead_letters = {row["event_id"]: row for row in world.rows(DEAD_LETTERS)}
    hour = hour_of(dead_letters["odd"]["received_at"])
    run(world, reasons=("unreadable_received_at", "future_received_at", "not_json"), hour=hour)
    with subscriber(world.address) as client:
        sent = {received.message.attributes["event_id"]: received.message for received in pull_now(client, world.subscription)}
    assert {name: datetime.fromisoformat(message.attributes["received_at"]) for name, message in sent.items()} == {
        name: row["received_at"] for name, row in dead_letters.items()
    }
    assert {name: message.attributes["replay_of"] for name, message in sent.items()} == {
        name: row["message_id"] for name, row in dead_letters.items()
    }
    assert {name: message.data for name, message in sent.items()} == broken


def test_replay__older_than_the_allowed_lateness(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dead letter older than the allowed lateness is delivered once, to the hour of the replay, and counts for its own."""
    old = LAST_HOUR - 30 * HOUR
    stamp = (old + timedelta(minutes=5)).isoformat()
    world.publish((LIKED, {**REFUSED, "event_id": "x", "received_at": stamp}), search("s", old))
    world.deliver()
    world.report("song_liked", old, ["x"])
    world.report("search_made", old, ["s"])
    world.report("tap", old, [])
    add_contract(world)
    run(world, "--allowed_lateness=1d", hour=old)
    world.deliver("--allowed_lateness=1d")
    [row] = world.rows("song_liked")
    assert row["skewed_from"] == datetime.fromisoformat(stamp)
    assert hour_of(row["received_at"]) > old
    assert audit_of(world, old)["song_liked"]["status"] == "COMPLETE"
    # A replay hours later finds it delivered.
    monkeypatch.setattr("pipelines.replay.utc_now", lambda: CLOCK.now() + timedelta(hours=3))
    capsys.readouterr()
    run(world, "--allowed_lateness=1d", hour=old)
    assert "0 dead letters published again; 1 delivered already, and skipped" in capsys.readouterr().out


def test_replay__reason_and_hours_flags(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    deliver_some(world)
    run(world, reasons=("not_json",))
    assert "1 dead letter published again" in capsys.readouterr().out
    run(world, hour=LAST_HOUR - HOUR)
    assert "0 dead letters published again" in capsys.readouterr().out
    assert world.undelivered() == 1


def test_replay__damaged_file(world: World) -> None:
    """A damaged file of dead letters is named, and the others are replayed."""
    deliver_some(world)
    earlier = LAST_HOUR - HOUR
    world.publish((LIKED, {**REFUSED, "event_id": "z", "received_at": (earlier + timedelta(minutes=1)).isoformat()}))
    world.deliver()
    [file] = (world.storage / Bucket(DEAD_LETTERS, LAST_HOUR).folder).glob("part-*.avro")
    data = bytearray(file.read_bytes())
    data[-30] ^= 0xFF
    file.write_bytes(data)
    span = f"--hours={earlier:%Y-%m-%dT%H}..{LAST_HOUR:%Y-%m-%dT%H}"
    with pytest.raises(UserError, match=rf"could not be read; all others were published:\n  .*{file.name} is not the file"):
        run(world, span)
    assert world.undelivered() == 1
    assert file.read_bytes() == bytes(data)


def test_replay__too_many_attributes(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """A dead letter that can't be published is named, and the others are published."""
    many = {f"key-{number}": "v" for number in range(96)}
    world.publish((LIKED, {**REFUSED, "event_id": "many", **many}), (LIKED, {**REFUSED, "event_id": "x"}))
    world.deliver()
    capsys.readouterr()
    assert run(world) == 1
    head, problem = capsys.readouterr().err.splitlines()
    assert head == "Pub/Sub can't accept these dead letters; all others were published:"
    assert "would have more than 100 attributes" in problem
    assert world.undelivered() == 1


def test_replay__publishes_unchanged(world: World) -> None:
    """Any data and attributes are published again unchanged.

    Without attributes; with any bytes; with attributes named like arguments of the client library, or like Pub/Sub's own.
    """
    names_in_use = {"topic": "t", "data": "d", "ordering_key": "o", "retry": "r", "timeout": "1", "messages": "m", "self": "s"}
    sent: list[tuple[bytes, dict[str, str]]] = [
        (bytes(range(256)), {}),
        (b"\xff\x00", {**REFUSED, **names_in_use, "event_id": "odd"}),
    ]
    ids: list[str] = []
    with publisher(world.address) as client:
        for data, attributes in sent:
            message = PubsubMessage(data=data, attributes={**attributes, "googclient_schemaencoding": "BINARY"})
            ids += PublisherClient.publish(client, topic=world.topic, messages=[message]).message_ids
    world.deliver()
    hours = {hour_of(row["received_at"]) for row in world.rows(DEAD_LETTERS)}
    span = f"--hours={min(hours):%Y-%m-%dT%H}..{max(hours):%Y-%m-%dT%H}"
    assert run(world, span, reasons=("no_type", "unknown_type")) == 0
    added = ("event_id", "received_at", "replay_of")
    with subscriber(world.address) as client:
        found = {
            received.message.attributes["replay_of"]: received.message for received in pull_now(client, world.subscription)
        }
    assert {own: message.data for own, message in found.items()} == dict(zip(ids, (data for data, _ in sent), strict=True))
    remaining = [{key: value for key, value in found[own].attributes.items() if key not in added} for own in ids]
    assert remaining == [{}, {key: value for key, value in sent[1][1].items() if key not in added}]
    assert [found[own].attributes["event_id"] for own in ids] == [ids[0], "odd"]


def test_replay__no_room_for_new_attributes(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """A dead letter without room for the new attributes is named, and the others are published."""
    attributes = {**REFUSED, "event_id": "x"}
    with publisher(world.address) as client:
        for short, own in ((150, "large"), (400, "fits")):
            message = PubsubMessage(data=bytes(10_000_000 - short), attributes={**attributes, "event_id": own})
            room = PublishRequest.pb(PublishRequest(topic=world.topic, messages=[message])).ByteSize() - 10_000_000
            message.data = message.data[: -room - (10 if own == "large" else 200)]
            PublisherClient.publish(client, topic=world.topic, messages=[message])
    world.publish((LIKED, attributes))
    world.deliver()
    capsys.readouterr()
    assert run(world) == 1
    assert re.search(r"published:\n  .*: message .* would be larger than Pub/Sub accepts", capsys.readouterr().err)
    with subscriber(world.address) as client:
        sent = {received.message.attributes["event_id"]: received.message for received in pull_now(client, world.subscription)}
    assert set(sent) == {"x", "fits"}


def test_replay__interrupted(world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A replay that was interrupted is completed by running it again."""
    world.publish(*((LIKED, {**REFUSED, "event_id": f"event-{number}"}) for number in range(10)))
    world.deliver()
    add_contract(world)
    monkeypatch.setattr("transforms.recovery.replay.MOST_MESSAGES", 4)
    taken: list[str] = []

    def publish_once(call: Callable[[], object], name: str) -> object:
        if taken:
            raise KeyboardInterrupt
        taken.append(name)
        return with_retry(call, name)

    with monkeypatch.context() as patch:
        patch.setattr("transforms.recovery.replay.with_retry", publish_once)
        with pytest.raises(KeyboardInterrupt):
            run(world)
    world.deliver()
    assert len(world.rows("song_liked")) == 4
    capsys.readouterr()
    assert run(world) == 0
    assert "6 dead letters published again; 4 delivered already, and skipped" in capsys.readouterr().out
    world.deliver()
    world.report("song_liked", LAST_HOUR, [f"event-{number}" for number in range(10)])
    assert len(world.rows("song_liked")) == 10
    assert audit_of(world)["song_liked"]["status"] == "COMPLETE"


def test_replay__refused_again_and_skewed(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A message that is refused again after the allowed lateness is stored once more, in the hour of the replay, and no
    further.
    """
    old = LAST_HOUR - 30 * HOUR
    world.publish((LIKED, {**REFUSED, "event_id": "x", "received_at": (old + timedelta(minutes=5)).isoformat()}))
    world.deliver()
    late = "--allowed_lateness=1d"
    run(world, late, hour=old)
    world.deliver(late)
    before = dead(world)
    assert len(before) == 2
    now = max(hour_of(row["received_at"]) for row in world.rows(DEAD_LETTERS))
    # Hours later it would go to yet another hour.
    monkeypatch.setattr("pipelines.replay.utc_now", lambda: CLOCK.now() + timedelta(hours=3))
    capsys.readouterr()
    assert run(world, late, hour=old) == 0
    output = capsys.readouterr().out
    assert "0 dead letters published again" in output
    assert f"rejected again: replay them from {now:%Y-%m-%dT%H}" in output
    assert world.undelivered() == 0
    # From that hour it is delivered, once there is a contract.
    add_contract(world)
    run(world, late, hour=now)
    world.deliver(late)
    assert [row["event_id"] for row in world.rows("song_liked")] == ["x"]
    assert dead(world) == before
    for hour in (old, now):
        run(world, late, hour=hour)
    assert world.undelivered() == 0


def test_replay__no_matching_dead_letters(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    deliver_some(world)
    capsys.readouterr()
    assert run(world, reasons=("broken_avro", "not_json"), hour=LAST_HOUR - HOUR) == 0
    assert "There are no dead letters with the reason broken_avro or not_json" in capsys.readouterr().out


def test_replay__wrong_flags(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong names are refused before anything is published."""
    with pytest.raises(UserError, match="there are no dead letters here"):
        run(world)
    deliver_some(world)
    with pytest.raises(PubSubError, match="does not exist"):
        run(world, f"--topic={make_topic(world.address)}x")
    capsys.readouterr()
    for wrong, problem in (
        ("--reason=bad_mood", "choose from 'bad_attribute', .*'wrong_type'\\)"),
        ("--hours=2026-01-31T09..2026-01-31T08", "ends before it begins"),
        ("--topic=events", "not of the form projects/PROJECT/topics/NAME"),
    ):
        with pytest.raises(SystemExit) as end:
            run(world, wrong)
        assert end.value.code == 2
        assert re.search(problem, capsys.readouterr().err)
