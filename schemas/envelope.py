"""What surrounds every event: a message's attributes, and the columns that come before the event's own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, Protocol

from schemas.outcomes import Reason, Rejected, Stage

EVENT_TYPE = "event_type"
EVENT_ID = "event_id"
SCHEMA_VERSION = "schema_version"
CONTENT_TYPE = "content_type"
SENT_AT = "sent_at"
RECEIVED_AT = "received_at"
REPLAY_OF = "replay_of"
"""Set by a replay: the message id of the dead letter that the message repeats, and stays if it is refused again."""

DEDUP_KEY = "dedup_key"
"""Set by publishers: Dataflow takes a message of a key once within some ten minutes, before deliver sees it. So it is another
for each message that a publisher counts as published. One without it is known by its message id, as Beam's own reader does it.
"""

JSON = "application/json"
AVRO = "application/avro"

MAX_PAYLOAD_BYTES = 8 * 1024 * 1024
"""Refused above this. BigQuery loads Avro blocks of up to 16 MB, and the largest row must fit into one."""

MAX_CLOCK_SKEW = timedelta(minutes=5)
"""How far an edge's clock may run ahead of Pub/Sub's before its stamp is refused."""

ENVELOPE_FIELDS: tuple[dict[str, object], ...] = (
    {
        "name": "event_id",
        "type": "string",
        "doc": "Unique for the event type; the Pub/Sub message id where the client gave none.",
    },
    {"name": "event_type", "type": "string", "doc": "Names the contract."},
    {"name": "schema_version", "type": "int", "doc": "The contract's version that the client wrote."},
    {
        "name": "received_at",
        "type": {"type": "long", "logicalType": "timestamp-micros"},
        "doc": "When the event was received; decides the hour.",
    },
    {
        "name": "sent_at",
        "type": ["null", {"type": "long", "logicalType": "timestamp-micros"}],
        "default": None,
        "doc": "When the client sent it, by the client's clock.",
    },
    {
        "name": "message_id",
        "type": "string",
        "doc": "Pub/Sub's id of the message that brought it, or of the dead letter that it repeats.",
    },
    {
        "name": "unknown_fields",
        "type": ["null", "string"],
        "default": None,
        "doc": "JSON object of what the payload has and the contract does not know, nested as in the payload.",
    },
    {
        "name": "skewed_from",
        "type": ["null", {"type": "long", "logicalType": "timestamp-micros"}],
        "default": None,
        "doc": "The edge's stamp, where it is older than the allowed lateness; received_at is then the publish time.",
    },
)
"""Avro fields of the envelope's columns, in their order. A contract can't use their names."""

_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?([Zz]|[+-][0-9]{2}:[0-9]{2})")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Message(Protocol):
    """What Pub/Sub delivered, in the form that Beam gives it. publish_time: Pub/Sub's own stamp, the same at each delivery."""

    @property
    def data(self) -> bytes: ...
    @property
    def attributes(self) -> Mapping[str, str]: ...
    @property
    def message_id(self) -> str: ...
    @property
    def publish_time(self) -> datetime: ...


class Stamp(NamedTuple):
    """received_at decides the hour; skewed_from is the edge's stamp where it was too old to decide it."""

    received_at: datetime
    skewed_from: datetime | None = None


def parse_time(text: str) -> datetime:
    """Reads an RFC 3339 time with its offset, cut to microseconds, as UTC. Raises ValueError."""
    if not _TIME.fullmatch(text):
        raise ValueError("not an RFC 3339 time with an offset, such as 2026-01-31T09:30:00Z")
    moment = datetime.fromisoformat(text.upper())
    return moment if moment.tzinfo is UTC else moment.astimezone(UTC)


def micros(moment: datetime) -> int:
    """Microseconds since 1970 of a UTC time, as Avro and Pub/Sub count them."""
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def format_time(moment: datetime) -> str:
    """RFC 3339 in UTC with a Z; microseconds only where there are some."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def stamp(attributes: Mapping[str, str], published_at: datetime, allowed_lateness: timedelta) -> Stamp:
    """When the event was received, from data that never change, so that every delivery comes to the same hour.

    That is the attribute received_at where an edge set it, Pub/Sub's publish time otherwise. A stamp whose
    hour had ended more than allowed_lateness before the publish time is kept beside, and the publish time
    decides: the event is delivered to an hour that is open, never dropped.
    Raises Rejected for a stamp that can't be read, or that lies more than MAX_CLOCK_SKEW after the publish time.
    """
    text = attributes.get(RECEIVED_AT)
    if text is None:
        return Stamp(published_at)
    try:
        edge = parse_time(text)
    except (ValueError, OverflowError) as error:
        raise Rejected(Stage.ENVELOPE, Reason.UNREADABLE_RECEIVED_AT, f"attribute {RECEIVED_AT}: {error}") from None
    if edge > published_at + MAX_CLOCK_SKEW:
        detail = (
            f"attribute {RECEIVED_AT} lies {edge - published_at} after the publish time; at most {MAX_CLOCK_SKEW} is allowed"
        )
        raise Rejected(Stage.ENVELOPE, Reason.FUTURE_RECEIVED_AT, detail)
    end = edge.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
    if published_at - end > allowed_lateness:
        return Stamp(published_at, skewed_from=edge)
    return Stamp(edge)
