"""Replay dead letters: select those that are due, and publish them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from functools import partial

import google.pubsub_v1
from google.cloud import pubsub_v1
from google.pubsub_v1.types import PublishRequest, PubsubMessage

from schemas.buckets import Bucket
from storage.buckets.committable import DataFile
from storage.buckets.manifest_store import DAMAGE, shown_receipt
from storage.objects.base import ObjectStore
from transforms.pubsub.retry import REQUEST_SECONDS, PubSubError, with_retry
from transforms.recovery.dead_letters import DeadLetter, read_dead_letters, resolved_since

MOST_MESSAGES = 1_000
"""Most messages of one request to Pub/Sub."""
MOST_BYTES = 10_000_000
"""Most bytes of one request to Pub/Sub."""
MOST_ATTRIBUTES = 100
"""Most attributes of one message."""


class Replay:
    """Selects the dead letters that are due, and counts the others."""

    def __init__(self, store: ObjectStore, reasons: frozenset[str], now: datetime, allowed_lateness: timedelta) -> None:
        """Select dead letters.

        Args:
            store: Where the dead letters are.
            reasons: Select dead letters with one of these reasons.
            now: When they will be published.
            allowed_lateness: The allowed lateness of deliver.
        """
        self.read = 0
        """Dead letters of the reasons, so far."""
        self.delivered = 0
        """Those of them whose events are delivered."""
        self.refused: Counter[datetime] = Counter()
        """Those of them whose replay was too late for their hour and was refused, by the hour of the new dead letter."""
        self.problems: list[str] = []
        """Messages about damaged objects. Their dead letters are skipped."""
        self._store = store
        self._reasons = reasons
        self._now = now
        self._allowed_lateness = allowed_lateness

    def due(self, bucket: Bucket) -> Iterator[DeadLetter]:
        """Yield the dead letters of a bucket that are to be published. Skip damaged objects, and add them to `problems`."""
        try:
            data_files = shown_receipt(self._store, bucket).data_files
        except DAMAGE as error:
            self.problems.append(str(error))
            return
        readable: list[DataFile] = []
        try:
            # One look-up for all files of the bucket, because it may read the indexes of all hours since.
            dead_letters = self._dead_letters(bucket, data_files, readable)
            resolved = resolved_since(self._store, dead_letters, self._now, self._allowed_lateness)
        except DAMAGE as error:
            self.problems.append(str(error))
            return
        for dead_letter in self._dead_letters(bucket, readable, []):
            self.read += 1
            if (dead_letter.event_type, dead_letter.hashed) in resolved.delivered:
                self.delivered += 1
            elif dead_letter.own_hash in resolved.refused:
                self.refused[resolved.refused[dead_letter.own_hash]] += 1
            else:
                yield dead_letter

    def _dead_letters(self, bucket: Bucket, data_files: Iterable[DataFile], readable: list[DataFile]) -> Iterator[DeadLetter]:
        """Yield the dead letters of files. Add each file to `readable`, or to the problems."""
        for data_file in data_files:
            try:
                yield from read_dead_letters(self._store, bucket, data_file, self._reasons)
                readable.append(data_file)
            except DAMAGE as error:
                self.problems.append(str(error))


class Outbox:
    """Publishes dead letters in requests that are as large as Pub/Sub allows. Call `flush` at the end."""

    def __init__(self, client: pubsub_v1.PublisherClient, topic: str) -> None:
        """Publish to `topic`."""
        self.published = 0
        """Messages that Pub/Sub has accepted."""
        # The method of the base class, since that of the client takes attributes as keyword arguments. One named `topic`
        # or `data` would collide.
        self._publish = partial(google.pubsub_v1.PublisherClient.publish, client)
        self._topic = topic
        self._messages: list[PubsubMessage] = []
        self._bytes = 0

    def add(self, dead_letter: DeadLetter) -> str | None:
        """Add a dead letter, and publish if a request is full. Return the reason if it can't be published.

        Raises:
            PubSubError: See `flush`.
        """
        if len(dead_letter.attributes) > MOST_ATTRIBUTES:
            name = dead_letter.message_id
            return f"message {name} would have more than {MOST_ATTRIBUTES} attributes, which Pub/Sub does not accept"
        message = PubsubMessage(data=dead_letter.data, attributes=dead_letter.attributes)
        size = _size(self._topic, message)
        if size > MOST_BYTES:
            return f"message {dead_letter.message_id} would be larger than Pub/Sub accepts"
        if len(self._messages) == MOST_MESSAGES or self._bytes + size > MOST_BYTES:
            self.flush()
        self._messages.append(message)
        self._bytes += size
        return None

    def flush(self) -> None:
        """Publish the messages that are waiting.

        Raises:
            PubSubError: Pub/Sub refuses them, or is unreachable for longer than RETRY_SECONDS.
        """
        if not self._messages:
            return
        request = PublishRequest(topic=self._topic, messages=self._messages)
        try:
            with_retry(lambda: self._publish(request, timeout=REQUEST_SECONDS, retry=None), self._topic)
        except PubSubError as error:
            raise PubSubError(
                f"the replay stopped after {self.published} dead letters: {error}. Those that are delivered by then are skipped"
            ) from None
        self.published += len(self._messages)
        self._messages, self._bytes = [], 0


def _size(topic: str, message: PubsubMessage) -> int:
    """Return the size of a request that publishes the message alone, in bytes."""
    return int(PublishRequest.pb(PublishRequest(topic=topic, messages=[message])).ByteSize())
