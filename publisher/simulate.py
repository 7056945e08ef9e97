"""Simulated traffic of a music service, with the faults of real traffic, and its expected results.

Equal seeds make equal traffic.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import lru_cache
from io import BytesIO
from random import Random
from uuid import UUID, uuid5

import fastavro

from publisher.music import MAKERS, Payload, to_json
from schemas.buckets import HOUR, hour_of
from schemas.envelope import AVRO, JSON, format_time
from schemas.outcomes import Reason
from schemas.registry.contracts import Contract, Contracts, load_contracts

EVENT_TYPES = tuple(MAKERS)
UNKNOWN_TYPE = "podcast_rated"

_IDS = UUID("0d6a4f0e-6f0b-4a51-8a9c-3f6ff0b6b1d2")

_BROKEN = 0.003
"""Share of events with a broken payload."""
_UNKNOWN = 0.002
"""Share of events of a type without a contract."""
_UNTYPED = 0.0005
"""Share of events without a type."""
_TWICE = 0.01
"""Share of good events that are published twice."""
_SECOND_PART = 0.01
"""Share of all events that are in the second part."""
_IN_AVRO = 0.1
_WITH_UNKNOWN_FIELD = 0.02
_OLD_VERSION = 0.3

_SECOND_PART_BUCKETS = 4
"""Number of buckets that have events of the second part."""

_QUIET = (("subscription_changed", 0), ("playlist_created", -1))
"""Event types without events in one hour: the index of the hour, where -1 is the last one."""

_DEFECTS = (
    Reason.NOT_JSON,
    Reason.MISSING_FIELD,
    Reason.WRONG_TYPE,
    Reason.BROKEN_AVRO,
    Reason.OUT_OF_RANGE,
    Reason.INVALID_UTF8,
    Reason.EMPTY_PAYLOAD,
)
"""Reasons for which payloads are broken, in turn."""


@dataclass(frozen=True)
class Simulated:
    """A message to be published."""

    part: int
    """1 or 2. The second part is published late: when the buckets of the first part are closed."""
    event_type: str | None
    event_id: str
    received_at: datetime
    sent_at: datetime
    data: bytes
    schema_version: int | None = None
    content_type: str | None = None
    reason: Reason | None = None
    """Reason for which it has to become a dead letter; None for a good message."""
    copy: bool = False
    """Whether it is the second message of an event. All other fields equal those of the first one."""


@dataclass
class Expected:
    """Expected counts of one event type in one hour after both parts: messages = delivered + duplicates + all of dead."""

    messages: int = 0
    events: int = 0
    """Distinct event ids."""
    delivered: int = 0
    """Rows."""
    duplicates: int = 0
    dead: Counter[Reason] = field(default_factory=Counter)
    """Dead letters by reason."""
    late: int = 0
    """Rows of the second part."""


def hours_of(hours: int, end: datetime) -> list[datetime]:
    """Return the starts of the `hours` full hours before `end`. Raises ValueError unless `end` is the start of an hour."""
    if hour_of(end) != end:
        raise ValueError(f"{end} is not the start of an hour")
    return [end - HOUR * back for back in range(hours, 0, -1)]


def simulate(seed: int, events: int, hours: int, end: datetime) -> Iterator[Simulated]:
    """Yield the messages of `events` events in the `hours` hours before `end`, roughly in the order of received_at.

    Equal arguments yield equal messages. An event's id depends on seed, end and its position only.

    About 1 % of the good events have a second message. About 1 % of all events, good ones of a few buckets, are in the
    second part. Both messages of an event are in the same part: two processes publish the parts, and each would count the id as
    distinct.

    Args:
        events: number of distinct ids, including those of broken payloads, of the unknown type and without a type.
    """
    rng = Random(seed)  # noqa: S311 - has to be reproducible
    starts = hours_of(hours, end)
    quiet = {(event_type, hour % hours) for event_type, hour in _QUIET}
    weights = [[0.0 if (kind, n) in quiet else MAKERS[kind][0] for kind in EVENT_TYPES] for n in range(hours)]
    second_part = _choose_buckets(rng, weights)
    copies: dict[int, list[Simulated]] = {}
    broken = 0
    span = hours * 3_600_000_000
    for index in range(events):
        micros = min(int((index + rng.random()) / events * span), span - 1)
        hour = micros // 3_600_000_000
        received_at = starts[0] + timedelta(microseconds=micros)
        event_type = rng.choices(EVENT_TYPES, weights[hour])[0]
        event_id = str(uuid5(_IDS, f"{seed}/{format_time(end)}/{index}"))
        good = _event(rng, event_type, event_id, received_at)
        dice = rng.random()
        if dice < _BROKEN:
            yield _broken(rng, event_type, good, _DEFECTS[broken % len(_DEFECTS)])
            broken += 1
        elif dice < _BROKEN + _UNKNOWN:
            yield _unknown(rng, good)
        elif dice < _BROKEN + _UNKNOWN + _UNTYPED:
            yield replace(good, event_type=None, reason=Reason.NO_TYPE)
        else:
            if rng.random() < second_part.get((event_type, hour), 0.0):
                good = replace(good, part=2)
            yield good
            if rng.random() < _TWICE:
                copies.setdefault(index + rng.randrange(1, 200), []).append(replace(good, copy=True))
        yield from copies.pop(index, ())
    for remaining in copies.values():
        yield from remaining


def expected(seed: int, events: int, hours: int, end: datetime) -> dict[tuple[str, datetime], Expected]:
    """Return the expected results of `simulate` with the same arguments by (event type, hour), including hours without events.

    Messages without a type are counted under "". The keys of "" and of UNKNOWN_TYPE only have hours with messages.
    """
    result = {(event_type, hour): Expected() for event_type in EVENT_TYPES for hour in hours_of(hours, end)}
    for message in simulate(seed, events, hours, end):
        counts = result.setdefault((message.event_type or "", hour_of(message.received_at)), Expected())
        counts.messages += 1
        counts.events += not message.copy
        if message.reason is not None:
            counts.dead[message.reason] += 1
        elif message.copy:
            counts.duplicates += 1
        else:
            counts.delivered += 1
            counts.late += message.part == 2
    return result


def _choose_buckets(rng: Random, weights: list[list[float]]) -> dict[tuple[str, int], float]:
    """Choose the buckets with events of the second part.

    Returns:
        The share of a bucket's events in the second part, by (event type, index of the hour).
        These events are about _SECOND_PART of all events.
    """
    shares = {
        (kind, hour): weight / sum(row) / len(weights)
        for hour, row in enumerate(weights)
        for kind, weight in zip(EVENT_TYPES, row, strict=True)
        if weight > 2.0  # a bucket with very few events might get no late one
    }
    chosen = rng.sample(list(shares), min(_SECOND_PART_BUCKETS, len(shares)))
    share = min(0.5, _SECOND_PART / sum(shares[bucket] for bucket in chosen))
    return dict.fromkeys(chosen, share)


def _event(rng: Random, event_type: str, event_id: str, received_at: datetime) -> Simulated:
    """Make a good event: of an old or the newest version, as JSON or Avro, with or without optional fields."""
    payload = MAKERS[event_type][1](rng, received_at)
    *old, contract = _contracts().versions(event_type)
    version: int | None = contract.version if rng.random() < 0.5 else None  # None stands for the newest version
    if old and rng.random() < _OLD_VERSION:
        contract = rng.choice(old)
        version = contract.version
    payload = {field["name"]: payload[field["name"]] for field in contract.schema["fields"]}
    sent_at = received_at - timedelta(milliseconds=rng.randrange(15, 3_000))
    bare = Simulated(1, event_type, event_id, received_at, sent_at, b"", version)
    if rng.random() < _IN_AVRO:
        return replace(bare, data=_to_avro(contract, payload), content_type=AVRO)
    if rng.random() < 0.5:
        payload = {name: value for name, value in payload.items() if value is not None}
    if rng.random() < _WITH_UNKNOWN_FIELD:
        payload["experiment"] = {"name": "shelf order", "arm": rng.randrange(3)}
    return replace(bare, data=to_json(payload), content_type=JSON if rng.random() < 0.5 else None)


def _broken(rng: Random, event_type: str, good: Simulated, reason: Reason) -> Simulated:
    """Replace the payload of a good event by one that is rejected for `reason`."""
    payload = MAKERS[event_type][1](rng, good.received_at)
    contract = _contracts().newest(event_type)
    int_field = next(field["name"] for field in contract.schema["fields"] if field["type"] == "int")
    broken = replace(good, schema_version=None, content_type=None, reason=reason)
    match reason:
        case Reason.BROKEN_AVRO:
            whole = _to_avro(contract, payload)
            return replace(broken, data=whole[: len(whole) // 2], content_type=AVRO)
        case Reason.NOT_JSON:
            return replace(broken, data=to_json(payload)[:-10])
        case Reason.INVALID_UTF8:
            return replace(broken, data=to_json(payload).replace(b'"user_id":"', b'"user_id":"\xff', 1))
        case Reason.EMPTY_PAYLOAD:
            return replace(broken, data=b"")
        case Reason.MISSING_FIELD:
            return replace(broken, data=to_json({name: value for name, value in payload.items() if name != int_field}))
        case Reason.WRONG_TYPE:
            return replace(broken, data=to_json(payload | {int_field: "many"}))
        case Reason.OUT_OF_RANGE:
            return replace(broken, data=to_json(payload | {int_field: 1 << 31}))
    raise ValueError(f"no payload can be rejected for {reason}")


def _unknown(rng: Random, good: Simulated) -> Simulated:
    """Replace a good event by one of a type without a contract."""
    data = to_json({"listener": f"l{rng.randrange(5_000)}", "podcast": f"p{rng.randrange(90)}", "stars": rng.randrange(1, 6)})
    bare = replace(good, event_type=UNKNOWN_TYPE, data=data, schema_version=None, content_type=None)
    return replace(bare, reason=Reason.UNKNOWN_TYPE)


def _to_avro(contract: Contract, payload: Payload) -> bytes:
    out = BytesIO()
    fastavro.schemaless_writer(out, contract.schema, payload)
    return out.getvalue()


@lru_cache(maxsize=1)
def _contracts() -> Contracts:
    return load_contracts()
