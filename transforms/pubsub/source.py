"""A source of Pub/Sub messages for runners without one of their own: FnApiRunner and Prism."""

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

WATERMARK_DELAY = timedelta(minutes=1)
"""How far the watermark of a stream is behind the clock, also while no message arrives. A message that Pub/Sub delivers after a
longer time is late."""


class PubSubSource(UnboundedSource):  # type: ignore[misc]
    """The messages of a subscription, each as a PubsubMessage with its publish time as timestamp.

    The watermark follows the publish times, and is infinite after the last message. The source runs only inside a block of
    `Leases` on the subscription, in the same process. It acknowledges nothing: the commit step does.
    """

    def __init__(self, subscription: str, until: datetime | None) -> None:
        """Read from `subscription`.

        Args:
            subscription: projects/PROJECT/subscriptions/NAME.
            until: Read messages published before this time, then end. None: read until the leases are stopped.
        """
        self._subscription = subscription
        self._until = until

    def split(self, desired_num_splits: int, options: Any = None) -> list[PubSubSource]:
        return [self]

    def create_reader(self, options: Any, checkpoint_mark: CheckpointMark | None) -> _Reader:
        leases = leases_for(self._subscription)
        if leases is None:
            raise RuntimeError(f"{self._subscription}: this process has no leases on it")
        # Beam drops a reader that it has not called for a minute, and creates another one. It gets the first one again, which
        # may have pulled messages that it has not emitted yet.
        leases.reader = leases.reader or _Reader(leases, self._until)
        return leases.reader

    def get_checkpoint_mark_coder(self) -> coders.Coder:
        return coders.PickleCoder()


class _Reader(UnboundedReader):  # type: ignore[misc]
    def __init__(self, leases: Leases, until: datetime | None) -> None:
        self._leases = leases
        self._until = until
        self._batches = self._all_batches()
        self._batch: list[Any] = []
        self._watermark = MIN_TIMESTAMP

    def _all_batches(self) -> Iterator[list[Any]]:
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
            # A generator that has raised is exhausted. A runner that retries would take that for the end of the source.
            self._batches = self._all_batches()
            raise
        bounds = [MAX_TIMESTAMP] if batch is None else [_published(received) for received in batch]
        if batch is not None and self._until is None:
            bounds.append(Timestamp.of((utc_now() - WATERMARK_DELAY).timestamp()))
        self._watermark = max(self._watermark, min(bounds))
        # Reversed, because `advance` pops from the end: messages keep their order.
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
