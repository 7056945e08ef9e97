"""Events of the benchmark: 20 event types with flat JSON payloads of about 320 bytes, with the fields that clients report."""

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
"""The hour of all events.

One file per event type makes 20, as many as `WriteToFiles` keeps open. More files would cost it extra work.
"""

TYPES = tuple(
    f"{noun}_{verb}"
    for noun in ("track", "playlist", "search", "page", "advert")
    for verb in ("opened", "started", "paused", "ended")
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
"""Field -> Avro type, the same for all event types: the bare loop writes a single Avro file, which has one schema."""


def write_contracts(folder: Path) -> Path:
    """Write a contract for each event type into a folder, and return the folder."""
    for event_type in TYPES:
        schema = {"type": "record", "name": event_type, "fields": fields()}
        (folder / event_type).mkdir(parents=True)
        (folder / event_type / "v1.avsc").write_text(json.dumps(schema))
    return folder


def fields() -> list[dict[str, str]]:
    """Return the Avro fields of an event."""
    return [{"name": name, "type": avro_type} for name, avro_type in FIELDS.items()]


@cache
def messages(events: int) -> Sequence[PubsubMessage]:
    """Return the messages of different events as Pub/Sub would deliver them, spread evenly over the types and the hour.

    Args:
        events: The number of messages.
    """
    generator = random.Random(SEED)  # noqa: S311 - Every contender gets the same messages.
    step = timedelta(hours=1) / (events + 1)
    return tuple(_message(generator, number, HOUR + number * step) for number in range(1, events + 1))


def _message(generator: random.Random, number: int, publish_time: datetime) -> PubsubMessage:
    payload = {
        "user_id": f"{generator.randrange(10**6):032x}",
        "session_id": f"{generator.getrandbits(128):032x}",
        "device": generator.choice(("iPhone 15 Pro", "Pixel 9", "Galaxy S24", "Desktop", "Living room speaker")),
        "platform": generator.choice(("ios", "android", "macos", "windows", "linux")),
        "app_version": f"8.{generator.randrange(10)}.{generator.randrange(100)}.{generator.randrange(1000)}",
        "country": generator.choice(("SE", "US", "DE", "BR", "IN", "JP")),
        "context": f"playlist:{generator.randrange(10**5):022d}",
        "position_ms": generator.randrange(300_000),
        "duration_ms": generator.randrange(120_000, 420_000),
        "volume": round(generator.random(), 3),
        "offline": generator.random() < 0.1,
        "sequence": generator.randrange(1000),
    }
    attributes = {EVENT_TYPE: TYPES[number % len(TYPES)], EVENT_ID: f"{generator.getrandbits(128):032x}"}
    return PubsubMessage(orjson.dumps(payload), attributes, f"{number:016d}", publish_time)
