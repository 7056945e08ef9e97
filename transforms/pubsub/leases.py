"""Leases: the messages that a run has taken from Pub/Sub and that nobody else gets meanwhile.

A message is acknowledged when the manifest that holds its event is written, and not before; until then its lease is extended.
If the process dies, the leases run out and Pub/Sub delivers the messages again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any, Self

from google.api_core.exceptions import DeadlineExceeded, GoogleAPIError
from google.cloud import pubsub_v1

from transforms.failures import FailureTracker
from transforms.pubsub.retry import REQUEST_SECONDS, message_of, with_retry

LEASE_SECONDS = 60
EXTEND_EVERY_SECONDS = 20
PULL_MESSAGES = 1000
"""The most that one pull returns."""
PULL_SECONDS = 1.0
"""A plain pull waits for messages; so long without one means that there is none left to take."""
SLOW_PULL_SECONDS = 10.0
"""Where a pull was not even answered in time, a second one, with more time, tells whether the answer was only slow."""
IDS_A_REQUEST = 2000
"""Pub/Sub takes requests of up to 512 KiB, and an ack id has up to some 200 bytes."""
PULLS_OF_NEWER = 10
"""After so many pulls in a row that bring only what is newer than the run, older messages are not waited for any more."""
PROGRESS_EVERY = 10_000
MOST_HELD = 100_000
"""A stream pulls no more while it holds so many messages: what is not acknowledged yet is in this machine's memory."""
NACK_DELAY_SECONDS = 60
"""How long a stream nacks a message that it failed to deliver because an object in a store is damaged."""

_log = logging.getLogger(__name__)


class Leases:
    """The messages that a run holds, by their ids. Extends their leases until the block ends.

    A message is held as soon as it is pulled. It is then put into a pack, and acknowledged when what the pack brought is
    durable. What is still held at the end of the block is released at once, so that the next run need not wait for it.
    """

    def __init__(self, subscription: str, client: pubsub_v1.SubscriberClient) -> None:
        self.subscription = subscription
        self.client = client
        self.acknowledged = 0
        """How many messages were acknowledged so far."""
        self.failures = FailureTracker(lambda: NACK_DELAY_SECONDS)
        """The buckets and partitions that a stream has skipped."""
        self.reader: Any = None
        """The run's only reader of the subscription, which `PubSubSource` sets."""
        self._held: dict[str, str] = {}
        self._packs: dict[str, list[str]] = {}
        self._lock = threading.Lock()
        self._taking = threading.Lock()
        self._done = threading.Event()
        self._stopped = threading.Event()
        self._extender = threading.Thread(target=self._extend, name="leases", daemon=True)

    def __enter__(self) -> Self:
        self._extender.start()
        _leases_by_subscription[self.subscription] = self
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
        _leases_by_subscription.pop(self.subscription, None)

    @property
    def held(self) -> int:
        """How many messages are held."""
        return len(self._held)

    @property
    def stopped(self) -> bool:
        return self._stopped.is_set()

    def stop(self) -> None:
        """Ends the stream of messages: no more are pulled. Those that are held stay so. Safe in a signal's handler."""
        self._stopped.set()

    def lease(self, received: Iterable[Any]) -> None:
        """Lease Pub/Sub's ReceivedMessages until the block ends: they are not redelivered meanwhile. Raises PubSubError."""
        ack_ids = {item.message.message_id: item.ack_id for item in received}
        with self._lock:
            self._held.update(ack_ids)
        with_retry(lambda: self._modify(list(ack_ids.values()), LEASE_SECONDS), self.subscription)

    def take(self, *waits: float) -> list[Any]:
        """Pulls, and holds what comes; nothing once the leases are stopped. Raises PubSubError."""
        with self._taking:
            received = [] if self.stopped else with_retry(lambda: _pull(self, *waits), self.subscription)
            if received:
                self.lease(received)
            return received

    def assign_pack(self, token: str, message_ids: list[str]) -> None:
        """Record which messages went into the pack of this name."""
        with self._lock:
            self._packs[token] = message_ids

    def ack_packs(self, tokens: Iterable[str]) -> None:
        """Acknowledge the messages of these packs, whose events are durable. Packs of another process are ignored.

        Raises PubSubError as `acknowledge` does.
        """
        with self._lock:
            message_ids = [message_id for token in tokens for message_id in self._packs.pop(token, ())]
        self.acknowledge(message_ids)

    def acknowledge(self, message_ids: Iterable[str]) -> None:
        """What the messages brought is durable: they are not to come again.

        Raises PubSubError when Pub/Sub does not take it; then some are delivered again, which makes duplicates that are known.
        """
        with self._lock:
            ack_ids = [ack_id for message_id in message_ids if (ack_id := self._held.pop(message_id, None))]
        for ids in _chunks(ack_ids):
            with_retry(lambda ids=ids: self._acknowledge(ids), self.subscription)  # type: ignore[misc]
        with self._lock:
            self.acknowledged += len(ack_ids)

    def nack_later(self, tokens: Iterable[str]) -> None:
        """Give up the leases of these packs' messages, which can't be delivered now. Pub/Sub redelivers them after
        NACK_DELAY_SECONDS, or at once if the stream is ending.
        """
        with self._lock:
            message_ids = [message_id for token in tokens for message_id in self._packs.pop(token, ())]
            ack_ids = [ack_id for message_id in message_ids if (ack_id := self._held.pop(message_id, None))]
        try:
            self._modify(ack_ids, 0 if self.stopped else NACK_DELAY_SECONDS)
        except GoogleAPIError as error:
            # They are not extended any more: their leases run out.
            _log.warning("%s: could not nack messages: %s", self.subscription, message_of(error))

    def release(self) -> None:
        """Give all leased messages back at once, and pull no more. Thread-safe and idempotent."""
        self.stop()
        # What is on its way now would be nobody's until its lease ends.
        if self._taking.acquire(timeout=2 * PULL_SECONDS):
            self._taking.release()
        self._done.set()
        self._extender.join()
        with self._lock:
            ack_ids = list(self._held.values())
            self._held.clear()
        try:
            self._modify(ack_ids, 0)
        except GoogleAPIError as error:
            _log.warning(
                "%s: could not release messages, they return in %d s: %s", self.subscription, LEASE_SECONDS, message_of(error)
            )

    def _extend(self) -> None:
        while not self._done.wait(EXTEND_EVERY_SECONDS):
            with self._lock:
                ack_ids = list(self._held.values())
            try:
                self._modify(ack_ids, LEASE_SECONDS)
            except GoogleAPIError as error:
                # Not fatal: what is delivered again is a duplicate, and the next round tries again.
                _log.warning("%s: could not extend %d leases: %s", self.subscription, len(ack_ids), message_of(error))

    def _acknowledge(self, ids: list[str]) -> None:
        self.client.acknowledge(subscription=self.subscription, ack_ids=ids, timeout=REQUEST_SECONDS, retry=None)

    def _modify(self, ack_ids: list[str], seconds: int) -> None:
        for ids in _chunks(ack_ids):
            self.client.modify_ack_deadline(
                subscription=self.subscription,
                ack_ids=ids,
                ack_deadline_seconds=seconds,
                timeout=REQUEST_SECONDS,
                retry=None,
            )


_leases_by_subscription: dict[str, Leases] = {}


def leases_for(subscription: str | None) -> Leases | None:
    """The leases that a block of this process holds on the subscription, for the steps of a run whose engine works in it."""
    return _leases_by_subscription.get(subscription) if subscription else None


def release_all() -> None:
    """Ends the leases of every run in this process, for a process that is about to end without leaving its blocks."""
    for leases in list(_leases_by_subscription.values()):
        leases.release()


def batches(leases: Leases, until: datetime) -> Iterator[list[Any]]:
    """What was published before `until` and nobody else has leased, as lists of Pub/Sub's own ReceivedMessage, until there
    is none. Raises PubSubError.

    Pub/Sub does not say when a subscription is empty: a pull that waits in vain ends the run, and the next run takes the rest.
    All messages are held; those that are newer stay so, for this run not to meet them again, and are released at its end.
    Older ones may come behind newer ones.
    """
    count = newer = 0
    with ThreadPoolExecutor(1, "pull") as ahead:
        coming = ahead.submit(leases.take, PULL_SECONDS, SLOW_PULL_SECONDS)
        while newer < PULLS_OF_NEWER and (received := coming.result()):
            # While the run works on these, the next are on their way.
            coming = ahead.submit(leases.take, PULL_SECONDS, SLOW_PULL_SECONDS)
            in_time = [item for item in received if item.message.publish_time.ToDatetime(until.tzinfo) < until]
            newer = 0 if in_time else newer + 1
            before, count = count, count + len(in_time)
            if before // PROGRESS_EVERY < count // PROGRESS_EVERY:
                _log.info("%s: %d messages taken", leases.subscription, count)
            if in_time:
                yield in_time


def batches_until_stopped(leases: Leases) -> Iterator[list[Any]]:
    """All that comes and nobody else has leased, until the leases are stopped; an empty list where there is nothing to take,
    or too much is held. Raises PubSubError."""
    while not leases.stopped:
        if leases.held >= MOST_HELD:
            yield []
            continue
        yield leases.take(PULL_SECONDS)


def _pull(leases: Leases, *waits: float) -> list[Any]:
    """What a pull gives that may take so many seconds; or the next one, where that was too few; nothing where all were."""
    for seconds in waits:
        try:
            response = leases.client.pull(
                subscription=leases.subscription, max_messages=PULL_MESSAGES, timeout=seconds, retry=None
            )
        except DeadlineExceeded:
            # There is nothing, or the answer was too slow.
            continue
        return list(type(response).pb(response).received_messages)
    return []


def _chunks(ids: list[str]) -> list[list[str]]:
    return [ids[i : i + IDS_A_REQUEST] for i in range(0, len(ids), IDS_A_REQUEST)]
