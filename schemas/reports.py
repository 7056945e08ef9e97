"""What travels on the audit topic: how much was published, and what became of it, each told by its own witness.

A report is one JSON object in a message's data. Its id is made before it is sent, and a report that comes
again under the same id says the same, so a reader keeps one of each id and repeats do no harm.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from schemas.buckets import Bucket, hour_of
from schemas.envelope import format_time, parse_time
from schemas.fingerprints import Tally
from schemas.outcomes import Exit

Books = Mapping[str, Mapping[Exit, Tally]]
"""event type -> exit -> tally. An event type's bucket has the one type; the dead letters have each that was claimed."""


@dataclass(frozen=True)
class Published:
    """A publisher's own count of one event type in one hour, counting only what Pub/Sub has acknowledged.

    id: unique for each report; reporter: one run of one publisher; messages: every message by its event id,
    an id that was published twice counts twice; distinct: each id once. A zero says that nothing was published.
    Reports of the same type and hour under different ids add up.
    """

    id: str
    reporter: str
    event_type: str
    hour: datetime
    messages: Tally
    distinct: Tally

    def to_json(self) -> bytes:
        value = {
            "report": "published",
            "id": self.id,
            "reporter": self.reporter,
            "event_type": self.event_type,
            "hour": format_time(self.hour),
            "messages": self.messages.to_json(),
            "distinct": self.distinct.to_json(),
        }
        return json.dumps(value, sort_keys=True).encode()


@dataclass(frozen=True)
class Delivered:
    """What one version of a receipt says of its bucket, since the bucket began. The highest version holds.

    late: rows that came after the bucket had closed; reasons: event type -> reason -> number of dead letters.
    """

    bucket: Bucket
    version: int
    closed: bool
    books: Books
    late: int = 0
    reasons: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return f"{self.bucket.key}/v{self.version}"

    def to_json(self) -> bytes:
        value = {
            "report": "delivered",
            "id": self.id,
            "bucket": self.bucket.key,
            "version": self.version,
            "closed": self.closed,
            "books": books_to_json(self.books),
            "late": self.late,
            "reasons": self.reasons,
        }
        return json.dumps(value, sort_keys=True).encode()


Report = Published | Delivered


def parse_report(data: bytes) -> Report:
    """Reads one report. Raises ValueError, saying what is wrong, for anything else."""
    try:
        value = json.loads(data)
        kind = value["report"]
        if kind == "published":
            tallies = Tally.from_json(value["messages"]), Tally.from_json(value["distinct"])
            report_id, reporter, event_type = (_text(value, name) for name in ("id", "reporter", "event_type"))
            return Published(report_id, reporter, event_type, _hour(value["hour"]), *tallies)
        if kind == "delivered":
            bucket = Bucket.from_key(value["bucket"])
            books = books_from_json(value["books"])
            return Delivered(bucket, value["version"], value["closed"], books, value["late"], value["reasons"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a report: {error!r}") from None
    raise ValueError(f"not a report of a known kind: {kind!r}")


def _text(value: Mapping[str, object], name: str) -> str:
    text = value[name]
    if not isinstance(text, str):
        raise TypeError(f"{name} is not a text")
    return text


def _hour(text: str) -> datetime:
    hour = parse_time(text)
    if hour != hour_of(hour):
        raise ValueError(f"{text} is not the start of an hour")
    return hour


def books_to_json(books: Books) -> dict[str, dict[str, object]]:
    return {kind: {str(way): tally.to_json() for way, tally in exits.items()} for kind, exits in books.items()}


def books_from_json(value: Mapping[str, Mapping[str, object]]) -> dict[str, dict[Exit, Tally]]:
    """Reads what `books_to_json` gave. Raises ValueError."""
    return {kind: {Exit(way): Tally.from_json(tally) for way, tally in exits.items()} for kind, exits in value.items()}


def add_books(left: Books, right: Books) -> dict[str, dict[Exit, Tally]]:
    """The sum of two books, exit by exit."""
    result = {kind: dict(exits) for kind, exits in left.items()}
    for kind, exits in right.items():
        mine = result.setdefault(kind, {})
        for way, tally in exits.items():
            mine[way] = mine.get(way, Tally()) + tally
    return result
