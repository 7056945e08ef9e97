"""The envelope of an event: the message's attributes, and the columns that precede the event's own."""

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
"""Attribute of a replayed message: the message id of the dead letter.

If the message is rejected again, the new dead letter keeps this id.
"""

DEDUP_KEY = "dedup_key"
"""Attribute set by publishers, by which Dataflow removes duplicates before deliver reads them.

Dataflow drops a message whose key it received within the last ten minutes or so. So the key must be unique for each message
that a publisher counts as published. A message without the attribute is identified by its message id, as in Beam's own
reader.
"""

JSON = "application/json"
AVRO = "application/avro"

MAX_PAYLOAD_BYTES = 8 * 1024 * 1024
"""Larger payloads are rejected. BigQuery loads Avro blocks of up to 16 MB, and the largest row must fit into one block."""

MAX_CLOCK_SKEW = timedelta(minutes=5)
"""How far the clock of an edge server may be ahead of Pub/Sub's; messages with a later stamp are rejected."""

ENVELOPE_FIELDS: tuple[dict[str, object], ...] = (
    {
        "name": "event_id",
        "type": "string",
        "doc": "Unique within the event type. The Pub/Sub message id if the client set no id.",
    },
    {"name": "event_type", "type": "string", "doc": "Name of the contract."},
    {"name": "schema_version", "type": "int", "doc": "Version of the contract that the client used."},
    {
        "name": "received_at",
        "type": {"type": "long", "logicalType": "timestamp-micros"},
        "doc": "Time of receipt. Decides the hour.",
    },
    {
        "name": "sent_at",
        "type": ["null", {"type": "long", "logicalType": "timestamp-micros"}],
        "default": None,
        "doc": "Time at which the client sent the event, by the client's clock.",
    },
    {
        "name": "message_id",
        "type": "string",
        "doc": "Pub/Sub's id of the message, or of the dead letter that was replayed.",
    },
    {
        "name": "unknown_fields",
        "type": ["null", "string"],
        "default": None,
        "doc": "JSON object of the payload's fields that are not in the contract, nested as in the payload.",
    },
    {
        "name": "skewed_from",
        "type": ["null", {"type": "long", "logicalType": "timestamp-micros"}],
        "default": None,
        "doc": "The edge server's stamp if it exceeds the allowed lateness; received_at is then the publish time.",
    },
)
"""Avro fields of the envelope's columns, in column order. The fields of a contract can't have their names."""

_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?([Zz]|[+-][0-9]{2}:[0-9]{2})")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Message(Protocol):
    """A Pub/Sub message in the form that Beam's reader returns."""

    @property
    def data(self) -> bytes: ...
    @property
    def attributes(self) -> Mapping[str, str]: ...
    @property
    def message_id(self) -> str: ...
    @property
    def publish_time(self) -> datetime:
        """Pub/Sub's own stamp, the same at each redelivery."""


class Stamp(NamedTuple):
    """The time of receipt of an event."""

    received_at: datetime
    """Decides the hour."""

    skewed_from: datetime | None = None
    """The edge server's stamp if it was too old; `received_at` is then the publish time."""


def parse_time(text: str) -> datetime:
    """Parse an RFC 3339 time with an offset; return it in UTC, truncated to microseconds.

    Raises:
        ValueError: The text has another form.
        OverflowError: The time in UTC is outside the years 1 to 9999.
    """
    if not _TIME.fullmatch(text):
        raise ValueError("not an RFC 3339 time with an offset, such as 2026-01-31T09:30:00Z")
    moment = datetime.fromisoformat(text.upper())
    return moment if moment.tzinfo is UTC else moment.astimezone(UTC)


def micros(moment: datetime) -> int:
    """Return the microseconds from 1970 to a UTC time, the unit of Avro and Pub/Sub."""
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def format_time(moment: datetime) -> str:
    """Format a time as RFC 3339 in UTC with a Z, without a fraction if it has no microseconds."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def stamp(attributes: Mapping[str, str], published_at: datetime, allowed_lateness: timedelta) -> Stamp:
    """Return the time of receipt, from data that never change, so that every redelivery goes to the same hour.

    The time is the attribute received_at if an edge server set it, else Pub/Sub's publish time. An event is skewed if the
    hour of its attribute ended more than `allowed_lateness` before the publish time. It is then delivered to the hour of
    the publish time, which is still open, and its attribute is kept in `skewed_from`. It is never dropped.

    Raises:
        Rejected: The attribute can't be parsed, or is more than MAX_CLOCK_SKEW after the publish time.
    """
    text = attributes.get(RECEIVED_AT)
    if text is None:
        return Stamp(published_at)
    try:
        edge = parse_time(text)
    except (ValueError, OverflowError) as error:
        raise Rejected(Stage.ENVELOPE, Reason.UNREADABLE_RECEIVED_AT, f"attribute {RECEIVED_AT}: {error}") from None
    if edge > published_at + MAX_CLOCK_SKEW:
        detail = f"attribute {RECEIVED_AT} is {edge - published_at} after the publish time; at most {MAX_CLOCK_SKEW} is allowed"
        raise Rejected(Stage.ENVELOPE, Reason.FUTURE_RECEIVED_AT, detail)
    end = edge.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
    if published_at - end > allowed_lateness:
        return Stamp(published_at, skewed_from=edge)
    return Stamp(edge)
