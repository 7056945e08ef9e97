"""What travels on the audit topic: how much was published, and what became of it, each told by its own witness.

A report is one JSON object in a message's data. Its id is made before it is sent, and a report that comes
again under the same id says the same, so a reader keeps one of each id and repeats do no harm.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

from schemas.buckets import EVENT_TYPE_NAME, FIRST_HOUR, LAST_HOUR, Bucket, hour_of
from schemas.counters import Counters, _tally, counters_to_json, read_counters
from schemas.envelope import format_time, parse_time
from schemas.fingerprints import Tally
from schemas.json_fields import read_count, read_flag, read_text, read_version

T = TypeVar("T")


@dataclass(frozen=True)
class PublishedReport:
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
class DeliveredReport:
    """What one version of a manifest says of its bucket, since the bucket began. The highest version of a lineage
    holds.

    lineage: the id of the bucket's first commit, empty where there is none; one that was deleted and rebuilt begins again, with
    version 1 of another lineage. late: rows that came after the bucket had closed; reasons: event type -> reason -> number of
    dead letters.
    """

    bucket: Bucket
    lineage: str
    version: int
    closed: bool
    counters: Counters
    late: int = 0
    reasons: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return f"{self.bucket.key}/{self.lineage}/v{self.version}"

    def to_json(self) -> bytes:
        value = {
            "report": "delivered",
            "id": self.id,
            "bucket": self.bucket.key,
            "lineage": self.lineage,
            "version": self.version,
            "closed": self.closed,
            "counters": counters_to_json(self.counters),
            "late": self.late,
            "reasons": self.reasons,
        }
        return json.dumps(value, sort_keys=True).encode()


Report = PublishedReport | DeliveredReport


def parse_report(data: bytes) -> Report:
    """Reads one report. Raises ValueError for anything else, saying which field is wrong, and quoting nothing."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise ValueError("not a report: not JSON") from None
    if not isinstance(value, dict):
        raise ValueError("not a report: not a JSON object")

    def read(name: str, reader: Callable[[Any], T]) -> T:
        try:
            return reader(value[name])
        except (KeyError, ValueError, TypeError, AttributeError, OverflowError):
            raise ValueError(f"not a report: {name} is missing or is not what it should be") from None

    if value.get("report") == "published":
        return PublishedReport(
            read("id", read_text),
            read("reporter", read_text),
            read("event_type", read_text),
            read("hour", _hour),
            read("messages", _tally),
            read("distinct", _tally),
        )
    if value.get("report") == "delivered":
        return DeliveredReport(
            read("bucket", _bucket),
            read("lineage", read_text),
            read("version", read_version),
            read("closed", read_flag),
            read("counters", read_counters),
            read("late", read_count),
            read("reasons", read_reasons),
        )
    raise ValueError("not a report of a known kind")


# What reads one field of a report, or of a manifest: ValueError, TypeError or AttributeError where it is something else.


def _in_range(hour: datetime) -> datetime:
    if hour != hour_of(hour) or not FIRST_HOUR <= hour <= LAST_HOUR:
        raise ValueError("not the start of an hour that can be audited")
    return hour


def _hour(value: object) -> datetime:
    return _in_range(parse_time(read_text(value)))


def _bucket(value: object) -> Bucket:
    bucket = Bucket.from_key(read_text(value))
    _in_range(bucket.hour)
    if bucket.key != value or not EVENT_TYPE_NAME.fullmatch(bucket.stream):
        raise ValueError("not the key of a bucket")
    return bucket


def read_reasons(value: Mapping[str, Mapping[str, object]]) -> dict[str, dict[str, int]]:
    return {
        read_text(kind): {read_text(name): read_count(number) for name, number in one.items()} for kind, one in value.items()
    }
