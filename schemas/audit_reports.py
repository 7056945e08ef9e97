"""Reports on the audit topic: the counts of publishers, and the counters of buckets.

Publishers and deliver count independently of each other. A report is one JSON object in a message's data.
Its id is assigned before the report is sent, and reports with the same id have the same content. So readers keep one
report per id, and duplicates are harmless.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

from schemas.buckets import EVENT_TYPE_NAME, FIRST_HOUR, LAST_HOUR, Bucket, hour_of
from schemas.counters import Counters, Reasons, counters_to_json, read_counters, read_tally
from schemas.envelope import format_time, parse_time
from schemas.fingerprints import Tally
from schemas.json_fields import read_count, read_flag, read_text, read_version

T = TypeVar("T")


@dataclass(frozen=True)
class PublishedReport:
    """A publisher's count of one event type in one hour.

    Only messages that Pub/Sub acknowledged are counted; a count of zero states that none were published.
    Reports of the same event type and hour with different ids add up.
    """

    id: str
    """Unique for each report."""

    reporter: str
    """One run of one publisher."""

    event_type: str

    hour: datetime
    """The start of a UTC hour."""

    messages: Tally
    """The event ids of all messages: an id that was published twice counts twice."""

    distinct: Tally
    """The event ids, each once."""

    def to_json(self) -> bytes:
        """Return the report as JSON, always the same bytes for equal reports."""
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
    """The counters of a bucket in one version of its manifest, cumulative since the bucket's first commit.

    The highest version of a lineage supersedes the others.
    """

    bucket: Bucket

    lineage: str
    """The id of the bucket's first commit, or "" if it has none.

    A bucket that is deleted and rebuilt starts with version 1 of a new lineage.
    """

    version: int
    closed: bool
    counters: Counters

    late: int = 0
    """Rows that arrived after the bucket was closed."""

    reasons: Reasons = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The id of the report: bucket, lineage and version."""
        return f"{self.bucket.key}/{self.lineage}/v{self.version}"

    def to_json(self) -> bytes:
        """Return the report as JSON, always the same bytes for equal reports."""
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
    """Parse one report.

    Raises:
        ValueError: The data are no report. The message names the invalid field, and quotes none of the data.
    """
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
            raise ValueError(f"not a report: field {name} is missing or invalid") from None

    if value.get("report") == "published":
        return PublishedReport(
            read("id", read_text),
            read("reporter", read_text),
            read("event_type", read_text),
            read("hour", _hour),
            read("messages", read_tally),
            read("distinct", read_tally),
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
    raise ValueError("not a report: field report is neither published nor delivered")


def _in_range(hour: datetime) -> datetime:
    if hour != hour_of(hour) or not FIRST_HOUR <= hour <= LAST_HOUR:
        raise ValueError(f"not the start of an hour from {FIRST_HOUR} to {LAST_HOUR}")
    return hour


def _hour(value: object) -> datetime:
    return _in_range(parse_time(read_text(value)))


def _bucket(value: object) -> Bucket:
    bucket = Bucket.from_key(read_text(value))
    _in_range(bucket.hour)
    if bucket.key != value or not EVENT_TYPE_NAME.fullmatch(bucket.stream):
        raise ValueError("not a bucket key")
    return bucket


def read_reasons(value: Mapping[str, Mapping[str, object]]) -> dict[str, dict[str, int]]:
    """Check counts of dead letters by event type and reason.

    Raises:
        ValueError, TypeError, AttributeError: The value has another form.
    """
    return {
        read_text(event_type): {read_text(reason): read_count(number) for reason, number in numbers.items()}
        for event_type, numbers in value.items()
    }
