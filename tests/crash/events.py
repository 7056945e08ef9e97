"""What is published before a crash, and where each message of it must be after: sets of ids, compared with files and tables."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from schemas.buckets import DEAD_LETTERS, Bucket, hour_of
from schemas.outcomes import Exit
from schemas.receipts import Receipt
from tests.support.delivery import LAST_HOUR, World

HOURS = tuple(LAST_HOUR - timedelta(hours=number) for number in range(3, -1, -1))
TYPES = ("search_made", "tap")
STREAMS = (*TYPES, DEAD_LETTERS)


@dataclass(frozen=True)
class Event:
    """A message that is to be published. payload: None for one that breaks its contract."""

    event_type: str
    event_id: str
    received_at: datetime
    payload: int | None

    def message(self) -> tuple[bytes, dict[str, str]]:
        good = {"search_made": {"words": "w", "results": self.payload}, "tap": {"x": self.payload}}[self.event_type]
        data = b"broken" if self.payload is None else json.dumps(good).encode()
        named = {"event_type": self.event_type, "event_id": self.event_id, "received_at": self.received_at.isoformat()}
        return data, named


def first_round(chance: random.Random) -> list[Event]:
    """Events of all hours: repeated within the hour, for taps in the next one too; with another payload; broken."""
    events = []
    for number, hour in enumerate(HOURS):
        searches = [_event(chance, "search_made", f"s{number}-{one}", hour) for one in range(20)]
        taps = [_event(chance, "tap", f"t{number}-{one}", hour) for one in range(15)]
        events += [*searches, *taps, searches[0], searches[1], taps[0]]
        events += [_event(chance, "search_made", f"s{number}-{one}", hour, payload=99) for one in (2, 3, 3)]
        events += [_event(chance, "search_made", f"broken{number}", hour, payload=None) for _ in range(2)]
        if number:
            events += [_event(chance, "tap", f"t{number - 1}-{one}", hour) for one in (1, 2)]
            events += [_event(chance, "tap", f"t{number - 1}-3", hour, payload=99)]
    chance.shuffle(events)
    return events


def second_round(chance: random.Random) -> list[Event]:
    """Late ones of all hours: new, known, and with another payload than the known."""
    events = []
    for number, hour in enumerate(HOURS):
        events += [_event(chance, "search_made", f"late{number}-{one}", hour) for one in range(4)]
        events += [_event(chance, "search_made", f"s{number}-4", hour), _event(chance, "tap", f"t{number}-4", hour)]
        events += [_event(chance, "search_made", f"s{number}-5", hour, payload=99)]
        events += [_event(chance, "tap", f"t{(number + 1) % len(HOURS)}-5", hour)]
    chance.shuffle(events)
    return events


def _event(chance: random.Random, kind: str, event_id: str, hour: datetime, payload: int | None = 7) -> Event:
    return Event(kind, event_id, hour + timedelta(seconds=chance.randrange(3600)), payload)


def publish(world: World, events: Sequence[Event]) -> dict[str, Event]:
    """Returns them by their message ids."""
    return dict(zip(world.publish(*(one.message() for one in events)), events, strict=True))


def report(world: World, published: Mapping[str, Event]) -> None:
    """Reports what was published, as one publisher does."""
    for kind in TYPES:
        for hour in HOURS:
            mine = [one for one in published.values() if (one.event_type, hour_of(one.received_at)) == (kind, hour)]
            world.report(kind, hour, [one.event_id for one in mine])


def check(world: World, published: Mapping[str, Event]) -> None:
    """Every message is in exactly one exit: published = delivered + duplicate + dead letter, in files and in tables."""
    delivered: dict[tuple[str, str], int | None] = {}
    messages: list[str] = []
    for kind in TYPES:
        rows = world.rows(kind)
        for row in rows:
            assert (kind, row["event_id"]) not in delivered, f"{kind} {row['event_id']} is in files twice"
            delivered[kind, row["event_id"]] = published[row["message_id"]].payload
            messages.append(row["message_id"])
        in_table = world.query(f"SELECT event_id, message_id FROM {kind} ORDER BY event_id")
        assert in_table == [(row["event_id"], row["message_id"]) for row in rows], f"files and table of {kind} differ"
    good = {(one.event_type, one.event_id) for one in published.values() if one.payload is not None}
    assert delivered.keys() == good

    letters = [row["message_id"] for row in world.rows(DEAD_LETTERS)]
    in_table = world.query(f"SELECT message_id FROM {DEAD_LETTERS} ORDER BY message_id")
    assert [one for (one,) in in_table] == letters, "files and table of dead letters differ"
    duplicates = {
        name
        for name, one in published.items()
        if one.payload is not None and one.payload == delivered[one.event_type, one.event_id] and name not in messages
    }
    exits = Counter([*messages, *letters, *duplicates])
    assert set(exits.values()) == {1}, f"in two exits: {[published[name] for name, times in exits.items() if times > 1]}"
    assert exits.keys() == published.keys(), f"in none: {[published[name] for name in published.keys() - exits.keys()]}"
    _check_receipts(world, Counter(kind for kind, _ in delivered))


def _check_receipts(world: World, delivered: Counter[str]) -> None:
    """The books balance, files are those that are listed, every bucket is closed and loaded."""
    for stream in STREAMS:
        rows = 0
        receipts = world.receipts(stream)
        assert receipts.keys() == set(HOURS)
        for hour in receipts:
            folder = world.buckets / Bucket(stream, hour).folder
            receipt = Receipt.from_json((folder / "_RECEIPT.json").read_bytes(), str(folder))
            for ways in receipt.books.values():
                parts = [tally for way, tally in ways.items() if way != Exit.RECEIVED]
                assert ways[Exit.RECEIVED] == sum(parts[1:], parts[0]), f"the books of {folder} do not balance"
                rows += ways[Exit.DELIVERED].count if Exit.DELIVERED in ways else 0
            listed = {name for part in receipt.parts for name in (part.name, part.index_name)}
            assert {file.name for file in folder.glob("part-*")} == listed
            assert (folder / "_SUCCESS").exists()
            assert receipt.version == max(int(file.stem) for file in folder.glob("_receipts/*.json"))
            assert (folder / f"_receipts/{receipt.version:06d}.loaded").exists()
        if stream != DEAD_LETTERS:
            assert rows == delivered[stream]
