"""Leases: messages that a run has pulled and not acknowledged, which Pub/Sub delivers to no other subscriber meanwhile.

A message is acknowledged once its event is in a committed manifest. Until then its lease is extended. If the process dies, the
leases expire and Pub/Sub redelivers the messages.
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
"""Duration of a lease, from its last extension."""
EXTEND_EVERY_SECONDS = 20
PULL_MESSAGES = 1000
"""Most messages that one pull returns."""
PULL_SECONDS = 1.0
"""Timeout of a pull. A pull waits for messages, so a timeout usually means that the subscription is empty."""
SLOW_PULL_SECONDS = 10.0
"""Timeout of the pull that follows a timeout. It finds messages if the first answer was only slow."""
IDS_A_REQUEST = 2000
"""Ack ids in one request. Pub/Sub accepts requests of up to 512 KiB, and an ack id has up to about 200 bytes."""
PULLS_OF_NEWER = 10
"""A bounded run ends after this many consecutive pulls that return only messages published after its start."""
MOST_HELD = 100_000
"""A stream does not pull while it holds this many messages, because unacknowledged messages are in this machine's memory."""
NACK_DELAY_SECONDS = 60
"""Time until a message is redelivered that a stream could not deliver because an object in a store is damaged."""

_log = logging.getLogger(__name__)


class Leases:
    """The leased messages of a run, by message id. A context manager, whose block the run is in. Thread-safe.

    A message is leased when it is pulled, then assigned to a pack, and acknowledged when the pack's records are durable. A
    thread extends the leases until the block ends. Messages that are still leased then are released at once, so that the next
    run gets them without waiting.
    """

    def __init__(self, subscription: str, client: pubsub_v1.SubscriberClient) -> None:
        self.subscription = subscription
        self.client = client
        self.acknowledged = 0
        """Messages acknowledged so far."""
        self.pulled = 0
        """Messages pulled so far."""
        self.loaded = 0
        """Partition loads that have succeeded so far."""
        self.failures = FailureTracker(lambda: NACK_DELAY_SECONDS)
        """Buckets and partitions that a stream has skipped."""
        self.reader: Any = None
        """The run's only reader of the subscription, which `PubSubSource` sets."""
        self._held: dict[str, str] = {}
        self._packs: dict[str, list[str]] = {}
        self._lock = threading.Lock()
        self._pull_lock = threading.Lock()
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
        """Number of leased messages."""
        return len(self._held)

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stopped.is_set()

    def stop(self) -> None:
        """Pull no more messages. Leased ones stay leased. Safe in a signal handler."""
        self._stopped.set()

    def lease(self, received: Iterable[Any]) -> None:
        """Lease messages until they are acknowledged or the block ends, so that they are not redelivered meanwhile.

        Args:
            received: Pub/Sub's ReceivedMessages.

        Raises:
            PubSubError: See `with_retry`.
        """
        ack_ids = {item.message.message_id: item.ack_id for item in received}
        with self._lock:
            self._held.update(ack_ids)
            self.pulled += len(ack_ids)
        with_retry(lambda: self._modify(list(ack_ids.values()), LEASE_SECONDS), self.subscription)

    def pull(self, *timeouts: float) -> list[Any]:
        """Pull messages and lease them. Return [] once the leases are stopped.

        Args:
            timeouts: Seconds of each pull, in turn. The first that returns messages is the last.

        Raises:
            PubSubError: See `with_retry`.
        """
        with self._pull_lock:
            received = [] if self.stopped else with_retry(lambda: _pull(self, *timeouts), self.subscription)
            if received:
                self.lease(received)
            return received

    def assign_pack(self, pack: str, message_ids: list[str]) -> None:
        """Record which messages went into the pack of this name."""
        with self._lock:
            self._packs[pack] = message_ids

    def ack_packs(self, packs: Iterable[str]) -> None:
        """Acknowledge the messages of packs whose records are durable. Packs of another process are ignored.

        Raises:
            PubSubError: See `acknowledge`.
        """
        with self._lock:
            message_ids = [message_id for pack in packs for message_id in self._packs.pop(pack, ())]
        self.acknowledge(message_ids)

    def acknowledge(self, message_ids: Iterable[str]) -> None:
        """Acknowledge messages whose events are durable, so that they are not redelivered.

        Raises:
            PubSubError: Pub/Sub did not accept it. Messages that are redelivered after that become duplicates.
        """
        with self._lock:
            ack_ids = [ack_id for message_id in message_ids if (ack_id := self._held.pop(message_id, None))]
        for ids in _chunks(ack_ids):
            with_retry(lambda ids=ids: self._acknowledge(ids), self.subscription)  # type: ignore[misc]
        with self._lock:
            self.acknowledged += len(ack_ids)

    def count_load(self) -> None:
        """Count a successful load of a partition."""
        with self._lock:
            self.loaded += 1

    def nack_later(self, packs: Iterable[str]) -> None:
        """Give up the leases of the messages of packs that can't be delivered now.

        Pub/Sub redelivers them after NACK_DELAY_SECONDS, or at once if the stream is ending.
        """
        with self._lock:
            message_ids = [message_id for pack in packs for message_id in self._packs.pop(pack, ())]
            ack_ids = [ack_id for message_id in message_ids if (ack_id := self._held.pop(message_id, None))]
        try:
            self._modify(ack_ids, 0 if self.stopped else NACK_DELAY_SECONDS)
        except GoogleAPIError as error:
            # Harmless: the messages are not extended any more, so their leases expire.
            _log.warning("%s: could not nack messages: %s", self.subscription, message_of(error))

    def release(self) -> None:
        """Pull no more, and let Pub/Sub redeliver all leased messages at once. Thread-safe and idempotent."""
        self.stop()
        # A pull that is under way may still lease messages. Unreleased, they would be unavailable until their leases expire.
        if self._pull_lock.acquire(timeout=2 * PULL_SECONDS):
            self._pull_lock.release()
        self._done.set()
        self._extender.join()
        with self._lock:
            ack_ids = list(self._held.values())
            self._held.clear()
        try:
            self._modify(ack_ids, 0)
        except GoogleAPIError as error:
            _log.warning(
                "%s: could not release messages, they are redelivered within %d s: %s",
                self.subscription,
                LEASE_SECONDS,
                message_of(error),
            )

    def _extend(self) -> None:
        while not self._done.wait(EXTEND_EVERY_SECONDS):
            with self._lock:
                ack_ids = list(self._held.values())
            try:
                self._modify(ack_ids, LEASE_SECONDS)
            except GoogleAPIError as error:
                # Not fatal: a message that is redelivered becomes a duplicate, and the next round tries again.
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
"""The leases of this process whose blocks are open. Beam pickles steps, so they find the leases by name."""


def leases_for(subscription: str | None) -> Leases | None:
    """Return the leases that this process has on the subscription, or None: then the runner acknowledges, or runs elsewhere."""
    return _leases_by_subscription.get(subscription) if subscription else None


def release_all() -> None:
    """Release the leases of all runs in this process, before it ends without leaving their blocks."""
    for leases in list(_leases_by_subscription.values()):
        leases.release()


def batches(leases: Leases, until: datetime) -> Iterator[list[Any]]:
    """Yield batches of the messages published before `until`, until the subscription has no more. Raises PubSubError.

    Pub/Sub does not report that a subscription is empty. Pulls that time out therefore end the run, and the next run gets any
    messages that are left. Newer messages are leased too, so that this run does not pull them again, and released at its end.
    Older messages may follow newer ones.

    Yields:
        Lists of Pub/Sub's ReceivedMessages, none of them empty.
    """
    newer = 0
    with ThreadPoolExecutor(1, "pull") as ahead:
        next_pull = ahead.submit(leases.pull, PULL_SECONDS, SLOW_PULL_SECONDS)
        while newer < PULLS_OF_NEWER and (received := next_pull.result()):
            # Pull the next batch while the run processes this one.
            next_pull = ahead.submit(leases.pull, PULL_SECONDS, SLOW_PULL_SECONDS)
            in_time = [item for item in received if item.message.publish_time.ToDatetime(until.tzinfo) < until]
            newer = 0 if in_time else newer + 1
            if in_time:
                yield in_time


def batches_until_stopped(leases: Leases) -> Iterator[list[Any]]:
    """Yield batches of messages until the leases are stopped. Raises PubSubError.

    Yields:
        Lists of Pub/Sub's ReceivedMessages. A list is empty if a pull has timed out, or MOST_HELD messages are leased.
    """
    while not leases.stopped:
        if leases.held >= MOST_HELD:
            yield []
            continue
        yield leases.pull(PULL_SECONDS)


def _pull(leases: Leases, *timeouts: float) -> list[Any]:
    """Pull with each timeout in turn. Return the first response, or [] if all time out."""
    for seconds in timeouts:
        try:
            response = leases.client.pull(
                subscription=leases.subscription, max_messages=PULL_MESSAGES, timeout=seconds, retry=None
            )
        except DeadlineExceeded:
            continue  # The subscription is empty, or the answer was too slow.
        return list(type(response).pb(response).received_messages)
    return []


def _chunks(ids: list[str]) -> list[list[str]]:
    return [ids[i : i + IDS_A_REQUEST] for i in range(0, len(ids), IDS_A_REQUEST)]
