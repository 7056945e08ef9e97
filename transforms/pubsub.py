"""Pub/Sub for a run that takes what was published before a moment, and ends; and for one that goes on until it is stopped.

A message is acknowledged only when what it brought is durable, by whoever holds its `Leases`; until then they are
extended. If the process dies, the leases run out and Pub/Sub delivers the messages again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, Self

from google.api_core.exceptions import (
    DeadlineExceeded,
    GoogleAPICallError,
    NotFound,
    RetryError,
    ServerError,
    TooManyRequests,
)
from google.cloud import pubsub_v1

LEASE_SECONDS = 60
EXTEND_EVERY_SECONDS = 20
PULL_MESSAGES = 1000
"""The most that one pull returns."""
PULL_SECONDS = 2.0
"""A plain pull waits for messages; so long without one means that there is none left to take."""
IDS_A_REQUEST = 2000
"""Pub/Sub takes requests of up to 512 KiB, and an ack id has up to some 200 bytes."""
START_SECONDS = 10.0
PROGRESS_EVERY = 10_000
MOST_HELD = 100_000
"""A stream pulls no more while it holds so many messages: what is not acknowledged yet is in this machine's memory."""

_log = logging.getLogger(__name__)


class PubSubError(Exception):
    """Pub/Sub can't be used as asked. The message says what, where, and what to do."""


class Leases:
    """The messages that a run holds. Extends their leases until the block ends.

    A message is held as soon as it is pulled, and `used` once the run works on it. Leaving the block without `acknowledge`
    gives all back at once, so that the next run need not wait for them; what was held and never used is always given back.
    """

    def __init__(self, subscription: str, client: pubsub_v1.SubscriberClient) -> None:
        self.subscription = subscription
        self.client = client
        self._held: set[str] = set()
        self._used: list[str] = []
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._stopped = threading.Event()
        self._extender = threading.Thread(target=self._extend, name="leases", daemon=True)

    def __enter__(self) -> Self:
        self._extender.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._extender.join()
        try:
            self._modify(list(self._held), 0)
        except GoogleAPICallError as error:
            _log.warning(
                "%s: could not give messages back, they return in %d s: %s", self.subscription, LEASE_SECONDS, error.message
            )

    def stop(self) -> None:
        """Ends the stream of messages: no more are pulled. Those that are held stay so. Safe in a signal's handler."""
        self._stopped.set()

    @property
    def stopped(self) -> bool:
        return self._stopped.is_set()

    @property
    def held(self) -> int:
        """How many messages are held."""
        return len(self._held)

    def hold(self, ack_ids: list[str]) -> None:
        """Keeps messages from being delivered again while the run lasts."""
        self._modify(ack_ids, LEASE_SECONDS)
        with self._lock:
            self._held.update(ack_ids)

    def use(self, ack_id: str) -> None:
        """The run works on this message: it is to be acknowledged when the run has succeeded."""
        self._used.append(ack_id)

    def acknowledge(self) -> int:
        """Acknowledges what was used, and returns how many that are. To be called once what they brought is durable."""
        with self._lock:
            self._held.difference_update(self._used)
        for ids in _chunks(self._used):
            self.client.acknowledge(subscription=self.subscription, ack_ids=ids)
        return len(self._used)

    def _extend(self) -> None:
        while not self._done.wait(EXTEND_EVERY_SECONDS):
            with self._lock:
                ack_ids = list(self._held)
            try:
                self._modify(ack_ids, LEASE_SECONDS)
            except GoogleAPICallError as error:
                # Not fatal: what is delivered again is a duplicate, and the next round tries again.
                _log.warning("%s: could not extend %d leases: %s", self.subscription, len(ack_ids), error.message)

    def _modify(self, ack_ids: list[str], seconds: int) -> None:
        for ids in _chunks(ack_ids):
            self.client.modify_ack_deadline(subscription=self.subscription, ack_ids=ids, ack_deadline_seconds=seconds)


def check_subscription(client: pubsub_v1.SubscriberClient, subscription: str) -> None:
    """Raises PubSubError when the subscription can't be read from, within some ten seconds."""
    _check(lambda: client.get_subscription(subscription=subscription, timeout=START_SECONDS, retry=None), subscription)


def check_topic(client: pubsub_v1.PublisherClient, topic: str) -> None:
    """Raises PubSubError when the topic is not there, within some ten seconds."""
    _check(lambda: client.get_topic(topic=topic, timeout=START_SECONDS, retry=None), topic)


def batches(leases: Leases, until: datetime | None) -> Iterator[list[Any]]:
    """What nobody else has leased, as lists of Pub/Sub's own ReceivedMessage: what was published before `until`, until there is
    none; without `until` all that comes until the leases are stopped, with an empty list whenever there is nothing to take.

    Pub/Sub does not say when a subscription is empty: a pull that waits in vain ends the run, and the next run takes the rest.
    All messages are held; those that are newer stay so, for this run not to meet them again, and are given back at its end.
    """
    count = 0
    while not leases.stopped:
        received = _pull(leases, patient=until is None)
        in_time = [one for one in received if until is None or one.message.publish_time.ToDatetime(until.tzinfo) < until]
        if not in_time and until is not None:
            return
        before, count = count, count + len(in_time)
        if before // PROGRESS_EVERY < count // PROGRESS_EVERY:
            _log.info("%s: %d messages taken", leases.subscription, count)
        yield in_time


def _pull(leases: Leases, patient: bool) -> list[Any]:
    """What one pull gives, held. patient: there is a next time, so there may be nothing now, or Pub/Sub may be out of reach."""
    if patient and leases.held >= MOST_HELD:
        return []
    try:
        response = leases.client.pull(
            subscription=leases.subscription, max_messages=PULL_MESSAGES, timeout=PULL_SECONDS, retry=None
        )
        received = type(response).pb(response).received_messages
        leases.hold([one.ack_id for one in received])
    except DeadlineExceeded:
        return []
    except (ServerError, RetryError, TooManyRequests) as error:
        if not patient:
            raise
        _log.warning("%s: could not pull, trying again: %s", leases.subscription, error.message)
        return []
    return list(received)


def _check(call: Callable[[], object], name: str) -> None:
    try:
        call()
    except NotFound:
        raise PubSubError(f"{name} does not exist. Create it, or correct the name.") from None
    except GoogleAPICallError as error:
        raise PubSubError(f"{name}: Pub/Sub can't be used: {error.message}. Is it reachable, and are you allowed to?") from None


def _chunks(ids: list[str]) -> list[list[str]]:
    return [ids[i : i + IDS_A_REQUEST] for i in range(0, len(ids), IDS_A_REQUEST)]
