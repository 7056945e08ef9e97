"""A source of Pub/Sub messages for runners that have none of their own."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from apache_beam import coders
from apache_beam.io.gcp.pubsub import PubsubMessage
from apache_beam.io.unbounded_source import CheckpointMark, UnboundedReader, UnboundedSource
from apache_beam.utils.timestamp import MAX_TIMESTAMP, MIN_TIMESTAMP, Timestamp

from transforms.clocks import utc_now
from transforms.pubsub.leases import Leases, batches, batches_until_stopped, leases_for

BEHIND = timedelta(minutes=1)
"""How far a stream's watermark stays behind the clock, also while nothing comes. What Pub/Sub takes longer to give is late."""


class PubSubSource(UnboundedSource):  # type: ignore[misc]
    """The messages that nobody else has leased, each as a PubsubMessage: those that were published before `until`, or, where
    that is None, all that come until the leases are stopped.

    An element's timestamp is its publish time; the watermark follows the publish times, and ends with the last message. It is
    to run inside a block of `Leases` on the subscription, which acknowledge a message when what it brought is durable.
    """

    def __init__(self, subscription: str, until: datetime | None) -> None:
        self._subscription = subscription
        self._until = until

    def split(self, desired_num_splits: int, options: Any = None) -> list[PubSubSource]:
        return [self]

    def create_reader(self, options: Any, checkpoint_mark: CheckpointMark | None) -> _Reader:
        leases = leases_for(self._subscription)
        if leases is None:
            raise RuntimeError(f"{self._subscription}: nobody in this process holds its messages")
        # Beam drops a reader that it has not called for a minute and asks for another one. The first one returns, since it may
        # have pulled messages that it has not emitted yet.
        leases.reader = leases.reader or _Reader(leases, self._until)
        return leases.reader

    def get_checkpoint_mark_coder(self) -> coders.Coder:
        return coders.PickleCoder()


class _Reader(UnboundedReader):  # type: ignore[misc]
    def __init__(self, leases: Leases, until: datetime | None) -> None:
        self._leases = leases
        self._until = until
        self._batches = self._taken()
        self._batch: list[Any] = []
        self._watermark = MIN_TIMESTAMP

    def _taken(self) -> Iterator[list[Any]]:
        return batches_until_stopped(self._leases) if self._until is None else batches(self._leases, self._until)

    def start(self) -> bool:
        return self.advance()

    def advance(self) -> bool:
        if self._batch:
            self._batch.pop()
        if not self._batch:
            self._pull()
        return bool(self._batch)

    def _pull(self) -> None:
        try:
            batch = next(self._batches, None)
        except Exception:
            # A generator that has raised is at its end; to an engine that tries again it would look like the source's.
            self._batches = self._taken()
            raise
        bounds = [MAX_TIMESTAMP] if batch is None else [_published(received) for received in batch]
        if batch is not None and self._until is None:
            bounds.append(Timestamp.of((utc_now() - BEHIND).timestamp()))
        self._watermark = max(self._watermark, min(bounds))
        # Turned round, to be taken from its end: the first to come stays the first.
        self._batch = (batch or [])[::-1]

    def get_current(self) -> PubsubMessage:
        received = self._batch[-1]
        published = _published(received).to_utc_datetime(has_tz=True)
        return PubsubMessage(received.message.data, dict(received.message.attributes), received.message.message_id, published)

    def get_current_timestamp(self) -> Timestamp:
        return _published(self._batch[-1])

    def get_watermark(self) -> Timestamp:
        return self._watermark

    def get_checkpoint_mark(self) -> CheckpointMark:
        return CheckpointMark()


def _published(received: Any) -> Timestamp:
    moment = received.message.publish_time
    return Timestamp(moment.seconds, moment.nanos // 1000)
