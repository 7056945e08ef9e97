"""Replaying: dead letters as messages that can be published again, and which of them need not be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, NamedTuple

import fastavro
import google.pubsub_v1
from google.cloud import pubsub_v1
from google.pubsub_v1.types import PublishRequest, PubsubMessage

from schemas.buckets import DEAD_LETTERS, EVENT_TYPE_NAME, HOUR, Bucket, hour_of
from schemas.envelope import DEDUP_KEY, EVENT_ID, EVENT_TYPE, RECEIVED_AT, REPLAY_OF, format_time, parse_time, stamp
from schemas.fingerprints import HASH_BYTES, id_hash
from storage.buckets.committable import DataFile
from storage.buckets.id_index import split
from storage.buckets.listing import buckets_of
from storage.buckets.manifest_store import DAMAGE, finished_receipt, shown_receipt
from storage.buckets.part_files import read_entries
from storage.objects.base import Damaged, ObjectStore
from storage.objects.streams import measure
from transforms.pubsub.retry import REQUEST_SECONDS, PubSubError, with_retry


@dataclass(frozen=True)
class DeadLetter:
    """A dead letter as the message that repeats it. received_at: decides the hour that it lies in."""

    message_id: str
    data: bytes
    attributes: Mapping[str, str]
    received_at: datetime

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> DeadLetter:
        """From a row of `schemas.row_schemas.dead_letter_schema`.

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


def read_dead_letters(store: ObjectStore, bucket: Bucket, data_file: DataFile, reasons: frozenset[str]) -> Iterator[DeadLetter]:
    """The dead letters of some reasons in one file. Damaged, before the first, where it is not the file that was committed."""
    name = f"{bucket.folder}/{data_file.name}"
    with store.open(name) as file:
        if measure(file) != (data_file.size, data_file.crc32c):
            raise Damaged(f"{name} is not the file that its manifest lists: size or checksum differ. Restore it from a copy.")
        file.seek(0)
        rows: Any = fastavro.reader(file)
        for row in rows:
            if row["reason"] in reasons:
                yield DeadLetter.of(row)


class Known(NamedTuple):
    """What became of dead letters since. delivered: event types and id hashes of those whose events are delivered, by an
    earlier replay or a good message; refused: by their own hashes, the newest hour in which late ones lie that were refused
    again."""

    delivered: set[tuple[str, bytes]]
    refused: Mapping[bytes, datetime]


def known_since(store: ObjectStore, dead_letters: Iterable[DeadLetter], now: datetime, allowed_lateness: timedelta) -> Known:
    """What became of the dead letters of one bucket. Reads indexes, never payloads.

    What came of them lies in the dead letter's own hour, or, if it is late by now, in any hour since.
    """
    events: dict[tuple[str, datetime, datetime], set[bytes]] = {}
    late: dict[datetime, set[bytes]] = {}
    for dead_letter in dead_letters:
        first = hour_of(dead_letter.received_at)
        is_late = dead_letter.is_late(now, allowed_lateness)
        if is_late:
            late.setdefault(first + HOUR, set()).add(dead_letter.own_hash)
        # A client may claim any type; there are no events of such.
        if dead_letter.event_type != DEAD_LETTERS and EVENT_TYPE_NAME.fullmatch(dead_letter.event_type):
            last = hour_of(now) if is_late else first
            events.setdefault((dead_letter.event_type, first, last), set()).add(dead_letter.hashed)
    delivered = {
        (event_type, digest)
        for (event_type, first, last), wanted in events.items()
        for _, digests in _present(store, event_type, first, last, wanted)
        for digest in digests
    }
    refused = {
        digest: hour
        for first, wanted in late.items()
        for hour, digests in _present(store, DEAD_LETTERS, first, hour_of(now), wanted)
        for digest in digests
    }
    return Known(delivered, refused)


def _present(
    store: ObjectStore, stream: str, first: datetime, last: datetime, wanted: set[bytes]
) -> Iterator[tuple[datetime, set[bytes]]]:
    """Which of the hashes the stream's indexes hold from one hour to another, in the order of hours."""
    for bucket in buckets_of(store, stream, first, last):
        for data_file in finished_receipt(store, bucket).data_files:
            entries = split(read_entries(store, bucket.folder, data_file))
            yield bucket.hour, wanted.intersection(one[:HASH_BYTES] for one in entries)


MOST_MESSAGES, MOST_BYTES = 1_000, 10_000_000
"""Pub/Sub takes no request with more."""


MOST_ATTRIBUTES = 100
"""Pub/Sub takes no message with more."""


class Replay:
    """Finds the dead letters that are due, and counts the others. read: all of the reasons that were asked for; delivered:
    those whose events are; refused: those that were refused again, too late for their hour, by the hour where they lie since.
    """

    def __init__(self, store: ObjectStore, reasons: frozenset[str], now: datetime, allowed_lateness: timedelta) -> None:
        self.read = self.delivered = 0
        self.refused: Counter[datetime] = Counter()
        self.problems: list[str] = []
        self._store = store
        self._reasons = reasons
        self._now = now
        self._allowed_lateness = allowed_lateness

    def due(self, bucket: Bucket) -> Iterator[DeadLetter]:
        """Those of a bucket. What is damaged is added to the problems, and does not keep the rest from being read."""
        try:
            data_files = shown_receipt(self._store, bucket).data_files
        except DAMAGE as error:
            self.problems.append(str(error))
            return
        readable: list[DataFile] = []
        try:
            # Once for all files of the bucket: it may ask every hour since.
            known = known_since(
                self._store, self._dead_letters(bucket, data_files, readable), self._now, self._allowed_lateness
            )
        except DAMAGE as error:
            self.problems.append(str(error))
            return
        for dead_letter in self._dead_letters(bucket, readable, []):
            self.read += 1
            if (dead_letter.event_type, dead_letter.hashed) in known.delivered:
                self.delivered += 1
            elif dead_letter.own_hash in known.refused:
                self.refused[known.refused[dead_letter.own_hash]] += 1
            else:
                yield dead_letter

    def _dead_letters(self, bucket: Bucket, data_files: Iterable[DataFile], readable: list[DataFile]) -> Iterator[DeadLetter]:
        """Those in the files; adds the files that could be read to `readable`, and the others to the problems."""
        for data_file in data_files:
            try:
                yield from read_dead_letters(self._store, bucket, data_file, self._reasons)
                readable.append(data_file)
            except DAMAGE as error:
                self.problems.append(str(error))


class Outbox:
    """Publishes dead letters, as many at a time as Pub/Sub takes. published: how many it has taken."""

    def __init__(self, client: pubsub_v1.PublisherClient, topic: str) -> None:
        self.published = 0
        # Not its own `publish`, which takes attributes as arguments: not those that are called `topic` or `data`.
        self._publish = partial(google.pubsub_v1.PublisherClient.publish, client)
        self._topic = topic
        self._messages: list[PubsubMessage] = []
        self._bytes = 0

    def add(self, dead_letter: DeadLetter) -> str | None:
        """Why the dead letter can't be published, if it can't. Raises PubSubError as `flush` does."""
        if len(dead_letter.attributes) > MOST_ATTRIBUTES:
            name = dead_letter.message_id
            return f"message {name} would have more than {MOST_ATTRIBUTES} attributes, which Pub/Sub does not take"
        message = PubsubMessage(data=dead_letter.data, attributes=dead_letter.attributes)
        size = _size(self._topic, message)
        if size > MOST_BYTES:
            return f"message {dead_letter.message_id} would be larger than Pub/Sub takes"
        if len(self._messages) == MOST_MESSAGES or self._bytes + size > MOST_BYTES:
            self.flush()
        self._messages.append(message)
        self._bytes += size
        return None

    def flush(self) -> None:
        """Publishes what is left. Raises PubSubError where Pub/Sub refuses, or is unreachable for longer than AWAY_SECONDS."""
        if not self._messages:
            return
        request = PublishRequest(topic=self._topic, messages=self._messages)
        try:
            with_retry(lambda: self._publish(request, timeout=REQUEST_SECONDS, retry=None), self._topic)
        except PubSubError as error:
            raise PubSubError(
                f"{self.published} dead letters were published, and then no more: {error} "
                "What is delivered by then is not published again."
            ) from None
        self.published += len(self._messages)
        self._messages, self._bytes = [], 0


def _size(topic: str, message: PubsubMessage) -> int:
    """Bytes of a request that publishes the message alone."""
    return int(PublishRequest.pb(PublishRequest(topic=topic, messages=[message])).ByteSize())
