"""Conflicts: an event whose id was delivered with another payload becomes a dead letter, never a silent duplicate.

Where this is found out there is only the event's row, not the message. So its payload is written anew, as JSON of the
row's own fields and its unknown ones: it says the same, in other bytes, and by the newest contract. Attributes that mean
nothing to deliver are not in it.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any, NamedTuple

import orjson

from schemas import envelope
from schemas.buckets import DEAD_LETTERS, Bucket
from schemas.envelope import ENVELOPE_FIELDS, format_time
from schemas.fingerprints import Tally, id_hash
from schemas.outcomes import Outcome, Reason, Stage
from schemas.row_schemas import dead_letter_schema, encoder
from schemas.shards import Shard
from storage.buckets.committable import Committable
from storage.buckets.id_index import digest_of, index_entry
from storage.buckets.part_files import DataFileWriter
from storage.objects.base import ObjectStore

_OWN = frozenset(str(field["name"]) for field in ENVELOPE_FIELDS)
_encode = encoder(dead_letter_schema())


class ConflictingEvent(NamedTuple):
    """A dead letter's row, and what the counters and the index need of it."""

    event_type: str
    message_id: str
    entry: bytes
    record: bytes


def conflicting_event_of(row: Mapping[str, Any]) -> ConflictingEvent:
    """The dead letter that an event's row becomes."""
    payload = {name: value for name, value in row.items() if name not in _OWN}
    if row["unknown_fields"]:
        _merge(payload, orjson.loads(row["unknown_fields"]))
    data = orjson.dumps(payload, default=_as_json)
    attributes = {
        envelope.EVENT_TYPE: row["event_type"],
        envelope.EVENT_ID: row["event_id"],
        envelope.RECEIVED_AT: format_time(row["skewed_from"] or row["received_at"]),
        envelope.CONTENT_TYPE: envelope.JSON,
    }
    if row["sent_at"]:
        attributes[envelope.SENT_AT] = format_time(row["sent_at"])
    received: datetime = row["received_at"]
    record = _encode(
        {
            "message_id": row["message_id"],
            "event_id": row["event_id"],
            "event_type": row["event_type"],
            "received_at": received,
            "published_at": received,
            "data": data,
            "attributes": attributes,
            "stage": Stage.DEDUPLICATE.value,
            "reason": Reason.CONFLICTING_PAYLOAD.value,
            "detail": "the event's id was delivered with another payload; this payload was rebuilt from its row",
        }
    )
    offset = (received.minute * 60 + received.second) * 1_000_000 + received.microsecond
    hashed = id_hash(row["message_id"])
    return ConflictingEvent(row["event_type"], row["message_id"], index_entry(hashed, offset, digest_of(data)), record)


def stage_conflicts(
    store: ObjectStore, hour: datetime, cause: str, events: Sequence[ConflictingEvent], new_id: Callable[[], str]
) -> Committable | None:
    """Writes conflicting events of one hour as a file of its dead letters, and gives their committable; None if there are none.

    cause: the id of the committable in which they were found; found again, they are known by it.
    """
    each = {event.message_id: event for event in events}
    if not each:
        return None
    counters: dict[str, dict[Outcome, Tally]] = {}
    reasons: dict[str, dict[str, int]] = {}
    with DataFileWriter(dead_letter_schema()) as writer:
        for event in each.values():
            writer.add(event.entry, event.record)
            tallies = counters.setdefault(event.event_type, {Outcome.RECEIVED: Tally(), Outcome.DEAD_LETTER: Tally()})
            one = Tally.of_hashes(id_hash(event.message_id))
            for outcome in tallies:
                tallies[outcome] += one
            numbers = reasons.setdefault(event.event_type, {Reason.CONFLICTING_PAYLOAD.value: 0})
            numbers[Reason.CONFLICTING_PAYLOAD.value] += 1
        data_file = writer.finish(store, Bucket(DEAD_LETTERS, hour), Shard(0, 1), new_id())
    name = sha256("\n".join([cause, *sorted(each)]).encode()).hexdigest()[:32]
    return Committable(name, counters, reasons, (data_file,) if data_file else ())


def _merge(value: Any, unknown: Mapping[str, Any]) -> None:
    """Puts unknown fields back to where they were: an array's are kept by the numbers of its items."""
    for name, item in unknown.items():
        key = int(name) if isinstance(value, list) else name
        inside = isinstance(value, list) or key in value
        if inside and isinstance(item, dict):
            _merge(value[key], item)
        else:
            value[key] = item


def _as_json(value: Any) -> str:
    return b64encode(value).decode() if isinstance(value, bytes) else str(value)
