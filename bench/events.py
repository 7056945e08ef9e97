"""The events that are compared by: 20 types of about 320 bytes of JSON, flat, of the kinds of fields that clients report."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import orjson
from apache_beam.io.gcp.pubsub import PubsubMessage

from schemas.envelope import EVENT_ID, EVENT_TYPE

SEED = 1
HOUR = datetime(2026, 1, 31, 10, tzinfo=UTC)
"""All events fall into one hour: `WriteToFiles` keeps 20 files open at a time, and does more work for more."""

TYPES = tuple(
    f"{thing}_{happened}"
    for thing in ("track", "playlist", "search", "page", "advert")
    for happened in ("opened", "started", "paused", "ended")
)

FIELDS: Mapping[str, str] = {
    "user_id": "string",
    "session_id": "string",
    "device": "string",
    "platform": "string",
    "app_version": "string",
    "country": "string",
    "context": "string",
    "position_ms": "long",
    "duration_ms": "long",
    "volume": "double",
    "offline": "boolean",
    "sequence": "int",
}
"""The same for each type, since the bare loop writes one Avro file, which has one schema."""


def write_contracts(folder: Path) -> Path:
    """Writes a contract for each type into the folder, and returns it."""
    for event_type in TYPES:
        schema = {"type": "record", "name": event_type, "fields": fields()}
        (folder / event_type).mkdir(parents=True)
        (folder / event_type / "v1.avsc").write_text(json.dumps(schema))
    return folder


def fields() -> list[dict[str, str]]:
    """The Avro fields of an event."""
    return [{"name": name, "type": kind} for name, kind in FIELDS.items()]


@cache
def messages(events: int) -> Sequence[PubsubMessage]:
    """So many messages, as Pub/Sub would deliver them: no event twice, spread over the types and the hour."""
    chance = random.Random(SEED)  # noqa: S311 - the same for each contender
    step = timedelta(hours=1) / (events + 1)
    return tuple(_message(chance, number, HOUR + number * step) for number in range(1, events + 1))


def _message(chance: random.Random, number: int, moment: datetime) -> PubsubMessage:
    payload = {
        "user_id": f"{chance.randrange(10**6):032x}",
        "session_id": f"{chance.getrandbits(128):032x}",
        "device": chance.choice(("iPhone 15 Pro", "Pixel 9", "Galaxy S24", "Desktop", "Living room speaker")),
        "platform": chance.choice(("ios", "android", "macos", "windows", "linux")),
        "app_version": f"8.{chance.randrange(10)}.{chance.randrange(100)}.{chance.randrange(1000)}",
        "country": chance.choice(("SE", "US", "DE", "BR", "IN", "JP")),
        "context": f"playlist:{chance.randrange(10**5):022d}",
        "position_ms": chance.randrange(300_000),
        "duration_ms": chance.randrange(120_000, 420_000),
        "volume": round(chance.random(), 3),
        "offline": chance.random() < 0.1,
        "sequence": chance.randrange(1000),
    }
    attributes = {EVENT_TYPE: TYPES[number % len(TYPES)], EVENT_ID: f"{chance.getrandbits(128):032x}"}
    return PubsubMessage(orjson.dumps(payload), attributes, f"{number:016d}", moment)
