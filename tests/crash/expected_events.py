"""Events that are published before a crash, and the check that each message has its outcome in files and tables."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from google.pubsub_v1.types import PubsubMessage

from schemas.buckets import DEAD_LETTERS, Bucket, hour_of
from schemas.outcomes import Outcome
from storage.buckets.manifest import Manifest
from tests.support.clock import LAST_HOUR
from tests.support.delivery import World
from tests.support.pubsub import make_subscription, pull_now, subscriber

HOURS = tuple(LAST_HOUR - timedelta(hours=number) for number in range(3, -1, -1))
NEW_TYPE = "song_liked"
"""A type without a contract when its events are published, and with one when they are replayed."""
FIELDS = {"search_made": "results", "tap": "x", NEW_TYPE: "song"}
"""Event type -> the JSON field that contains the payload."""


@dataclass(frozen=True)
class Event:
    """A message to be published, or one that was."""

    event_type: str
    event_id: str
    received_at: datetime
    payload: int | None
    """None for a message that is not JSON."""
    replay_of: str = ""
    """Id of the message that it replays."""

    @property
    def is_good(self) -> bool:
        """Return whether it follows its contract."""
        return self.payload is not None and (self.event_type != NEW_TYPE or bool(self.replay_of))

    def message(self) -> tuple[bytes, dict[str, str]]:
        extra = {"words": "w"} if self.event_type == "search_made" else {}
        data = b"broken" if self.payload is None else json.dumps({FIELDS[self.event_type]: self.payload, **extra}).encode()
        attributes = {"event_type": self.event_type, "event_id": self.event_id, "received_at": self.received_at.isoformat()}
        return data, attributes

    @classmethod
    def of(cls, message: PubsubMessage) -> Event:
        """Read the event from a message, which may be a replay."""
        attributes = message.attributes
        payload = None if message.data == b"broken" else json.loads(message.data)[FIELDS[attributes["event_type"]]]
        received_at = datetime.fromisoformat(attributes["received_at"])
        return cls(attributes["event_type"], attributes["event_id"], received_at, payload, attributes.get("replay_of", ""))


def first_round(chance: random.Random) -> list[Event]:
    """Make events of all hours: duplicates in the same hour and, of taps, in the next one; conflicts; and broken events."""
    events = []
    for number, hour in enumerate(HOURS):
        searches = [_event(chance, "search_made", f"s{number}-{index}", hour) for index in range(20)]
        taps = [_event(chance, "tap", f"t{number}-{index}", hour) for index in range(15)]
        events += [*searches, *taps, searches[0], searches[1], taps[0]]
        events += [_event(chance, "search_made", f"s{number}-{index}", hour, payload=99) for index in (2, 3, 3)]
        events += [_event(chance, "search_made", f"broken{number}", hour, payload=None) for _ in range(2)]
        if number:
            events += [_event(chance, "tap", f"t{number - 1}-{index}", hour) for index in (1, 2)]
            events += [_event(chance, "tap", f"t{number - 1}-3", hour, payload=99)]
    chance.shuffle(events)
    return events


def second_round(chance: random.Random) -> list[Event]:
    """Make late events of all hours: new ones, duplicates, and conflicts."""
    events = []
    for number, hour in enumerate(HOURS):
        events += [_event(chance, "search_made", f"late{number}-{index}", hour) for index in range(4)]
        events += [_event(chance, "search_made", f"s{number}-4", hour), _event(chance, "tap", f"t{number}-4", hour)]
        events += [_event(chance, "search_made", f"s{number}-5", hour, payload=99)]
        events += [_event(chance, "tap", f"t{(number + 1) % len(HOURS)}-5", hour)]
    chance.shuffle(events)
    return events


def songs(chance: random.Random) -> list[Event]:
    """Make events that are refused until there is a contract for them, some of them duplicates."""
    found = [
        _event(chance, NEW_TYPE, f"l{number}-{index % 8}", hour) for number, hour in enumerate(HOURS) for index in range(10)
    ]
    chance.shuffle(found)
    return found


def _event(chance: random.Random, event_type: str, event_id: str, hour: datetime, payload: int | None = 7) -> Event:
    return Event(event_type, event_id, hour + timedelta(seconds=chance.randrange(3600)), payload)


def publish(world: World, events: Sequence[Event]) -> dict[str, Event]:
    """Publish the events and return them by message id."""
    return dict(zip(world.publish(*(event.message() for event in events)), events, strict=True))


@dataclass(frozen=True)
class Witness:
    """A subscription of its own that gets all messages of the topic, whoever publishes them, as an archive does."""

    world: World
    subscription: str

    @classmethod
    def of(cls, world: World) -> Witness:
        return cls(world, make_subscription(world.address, world.topic))

    def messages(self) -> list[PubsubMessage]:
        """Return all messages since the last call."""
        found: list[PubsubMessage] = []
        with subscriber(self.world.address) as client:
            while batch := pull_now(client, self.subscription):
                client.acknowledge(subscription=self.subscription, ack_ids=[received.ack_id for received in batch])
                found += [received.message for received in batch]
        return found


def types_of(world: World) -> list[str]:
    return sorted(folder.name for folder in world.contracts.iterdir())


def report(world: World, published: Mapping[str, Event]) -> None:
    """Report the published events as one publisher would. Replays are not reported."""
    for event_type in types_of(world):
        for hour in HOURS:
            of_hour = [
                event for event in published.values() if (event.event_type, hour_of(event.received_at)) == (event_type, hour)
            ]
            world.report(event_type, hour, [event.event_id for event in of_hour if not event.replay_of])


def check(world: World, published: Mapping[str, Event], raced: bool = False) -> None:
    """Check that every message has exactly one outcome.

    published = delivered + duplicate + dead letter, in files and in tables.

    Args:
        raced: the runs were concurrent. A run compares a message first with those that it has handled itself, even if one of
            these is later refused because the other run delivered another payload meanwhile. So a dead letter may have the
            payload that was delivered, and a duplicate that of a dead letter.
    """
    dead_letters = [row["message_id"] for row in world.rows(DEAD_LETTERS)]
    in_table = world.query(f"SELECT message_id FROM {DEAD_LETTERS} ORDER BY message_id")
    assert [message_id for (message_id,) in in_table] == dead_letters, "files and table of dead letters differ"
    # A replayed row has the message id of its dead letter; any of several replays may have delivered it.
    replays = {event.replay_of: name for name, event in published.items() if event.replay_of}
    delivered: dict[tuple[str, str], int | None] = {}
    messages: list[str] = []
    for event_type in types_of(world):
        rows = world.rows(event_type)
        for row in rows:
            assert (event_type, row["event_id"]) not in delivered, f"{event_type} {row['event_id']} is in files twice"
            delivered[event_type, row["event_id"]] = published[row["message_id"]].payload
            messages.append(replays[row["message_id"]] if row["message_id"] in dead_letters else row["message_id"])
        in_table = world.query(f"SELECT event_id, message_id FROM {event_type} ORDER BY event_id")
        assert in_table == [(row["event_id"], row["message_id"]) for row in rows], f"files and table of {event_type} differ"
    good = {(event.event_type, event.event_id) for event in published.values() if event.is_good}
    assert delivered.keys() == good, (
        f"lost: {sorted(good - delivered.keys())}; not published: {sorted(delivered.keys() - good)}"
    )

    known = {(*key, payload) for key, payload in delivered.items()}
    if raced:
        known |= {(event.event_type, event.event_id, event.payload) for event in map(published.__getitem__, dead_letters)}
    duplicates = {
        name
        for name, event in published.items()
        if name not in messages
        and not (raced and name in dead_letters)
        # A replay that is refused again is a duplicate of its dead letter.
        and (event.replay_of in dead_letters or (event.is_good and (event.event_type, event.event_id, event.payload) in known))
    }
    outcomes = Counter([*messages, *dead_letters, *duplicates])
    assert set(outcomes.values()) == {1}, (
        f"with two outcomes: {[published[name] for name, times in outcomes.items() if times > 1]}"
    )
    assert outcomes.keys() == published.keys(), f"in none: {[published[name] for name in published.keys() - outcomes.keys()]}"
    _check_manifests(world, Counter(event_type for event_type, _ in delivered))


def _check_manifests(world: World, delivered: Counter[str]) -> None:
    """Check that counters balance, that folders have exactly the listed files, and that every bucket is closed and loaded."""
    for stream in (*types_of(world), DEAD_LETTERS):
        rows = 0
        manifests = world.manifests(stream)
        assert manifests.keys() == set(HOURS)
        for hour in manifests:
            folder = world.storage / Bucket(stream, hour).folder
            manifest = Manifest.from_json((folder / "_RECEIPT.json").read_bytes(), str(folder))
            for outcomes in manifest.counters.values():
                results = [tally for outcome, tally in outcomes.items() if outcome != Outcome.RECEIVED]
                assert outcomes[Outcome.RECEIVED] == sum(results[1:], results[0]), f"the counters of {folder} do not balance"
                rows += outcomes[Outcome.DELIVERED].count if Outcome.DELIVERED in outcomes else 0
            listed = {name for data_file in manifest.data_files for name in (data_file.name, data_file.index_name)}
            assert {file.name for file in folder.glob("part-*")} == listed
            assert (folder / "_SUCCESS").exists()
            assert manifest.version == max(int(file.stem) for file in folder.glob("_receipts/*.json"))
            assert (folder / f"_receipts/{manifest.version:06d}.loaded").exists()
        if stream != DEAD_LETTERS:
            assert rows == delivered[stream]
