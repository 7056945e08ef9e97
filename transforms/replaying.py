"""Replaying: dead letters as messages that can be published again, and which of them need not be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import fastavro

from schemas.buckets import DEAD_LETTERS, EVENT_TYPE_NAME, HOUR, Bucket, hour_of
from schemas.contributions import Part
from schemas.envelope import DEDUP_KEY, EVENT_ID, EVENT_TYPE, RECEIVED_AT, REPLAY_OF, format_time, parse_time, stamp
from schemas.fingerprints import HASH_BYTES, id_hash
from schemas.marks import split
from transforms.buckets import Buckets, Damaged
from transforms.buckets.streams import measure
from transforms.hours import buckets_of
from transforms.parts import read_marks
from transforms.versions import newest_receipt


@dataclass(frozen=True)
class Letter:
    """A dead letter as the message that repeats it. received_at: decides the hour that it lies in."""

    message_id: str
    data: bytes
    attributes: Mapping[str, str]
    received_at: datetime

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Letter:
        """From a row of `schemas.rows.dead_letter_schema`.

        It keeps its attributes, and is given the event id that it was known by, and received_at where its own decided nothing
        (there is none, it can't be read, or it lies in the future): so it comes to the hour that it came to before. Attributes
        that Pub/Sub sets itself begin with goog: it takes them from nobody else.
        """
        attributes = {key: value for key, value in row["attributes"].items() if not key.startswith("goog")}
        try:
            counts = parse_time(attributes[RECEIVED_AT]) <= row["received_at"]
        except (KeyError, ValueError, OverflowError):
            counts = False
        if not counts:
            attributes[RECEIVED_AT] = format_time(row["received_at"])
        attributes[EVENT_ID] = row["event_id"]
        attributes[REPLAY_OF] = row["message_id"]
        # It comes again on purpose.
        attributes.pop(DEDUP_KEY, None)
        return cls(row["message_id"], row["data"], attributes, row["received_at"])

    @property
    def event_type(self) -> str:
        return self.attributes.get(EVENT_TYPE, "")

    @property
    def hashed(self) -> bytes:
        """Of the event id."""
        return id_hash(self.attributes[EVENT_ID])

    @property
    def own_hash(self) -> bytes:
        """Of the message id, which a dead letter keeps when it is refused again."""
        return id_hash(self.message_id)

    def is_late(self, now: datetime, allowed_lateness: timedelta) -> bool:
        """Whether it comes too late for its hour if it is published now: then it is delivered to the hour of now."""
        return stamp(self.attributes, now, allowed_lateness).skewed_from is not None


def read_letters(buckets: Buckets, bucket: Bucket, part: Part, reasons: frozenset[str]) -> Iterator[Letter]:
    """The dead letters of some reasons in one file. Damaged, before the first, where it is not the file that was committed."""
    name = f"{bucket.folder}/{part.name}"
    with buckets.open(name) as file:
        if measure(file) != (part.size, part.crc32c):
            raise Damaged(f"{name} is not the file that its receipt lists: size or checksum differ. Restore it from a copy.")
        file.seek(0)
        rows: Any = fastavro.reader(file)
        for row in rows:
            if row["reason"] in reasons:
                yield Letter.of(row)


class Known(NamedTuple):
    """What became of letters since. delivered: event types and id hashes of those whose events are delivered, by an earlier
    replay or a good message; refused: by their own hashes, the newest hour in which late ones lie that were refused again."""

    delivered: set[tuple[str, bytes]]
    refused: Mapping[bytes, datetime]


def known_since(buckets: Buckets, letters: Iterable[Letter], now: datetime, allowed_lateness: timedelta) -> Known:
    """What became of the letters of one bucket. Reads indexes, never payloads.

    What came of them lies in the letter's own hour, or, if it is late by now, in any hour since.
    """
    events: dict[tuple[str, datetime, datetime], set[bytes]] = {}
    late: dict[datetime, set[bytes]] = {}
    for letter in letters:
        first = hour_of(letter.received_at)
        is_late = letter.is_late(now, allowed_lateness)
        if is_late:
            late.setdefault(first + HOUR, set()).add(letter.own_hash)
        # A client may claim any type; there are no events of such.
        if letter.event_type != DEAD_LETTERS and EVENT_TYPE_NAME.fullmatch(letter.event_type):
            last = hour_of(now) if is_late else first
            events.setdefault((letter.event_type, first, last), set()).add(letter.hashed)
    delivered = {
        (stream, digest)
        for (stream, first, last), wanted in events.items()
        for _, there in _there(buckets, stream, first, last, wanted)
        for digest in there
    }
    refused = {
        digest: hour
        for first, wanted in late.items()
        for hour, there in _there(buckets, DEAD_LETTERS, first, hour_of(now), wanted)
        for digest in there
    }
    return Known(delivered, refused)


def _there(
    buckets: Buckets, stream: str, first: datetime, last: datetime, wanted: set[bytes]
) -> Iterator[tuple[datetime, set[bytes]]]:
    """Which of the hashes the stream's indexes hold from one hour to another, in the order of hours."""
    for bucket in buckets_of(buckets, stream, first, last):
        for part in newest_receipt(buckets, bucket).parts:
            marks = split(read_marks(buckets, bucket.folder, part))
            yield bucket.hour, wanted.intersection(one[:HASH_BYTES] for one in marks)
