"""Pub/Sub for a run that takes what was published before a moment, and ends.

A message is acknowledged only after the whole run has succeeded, by whoever holds its `Leases`; until then they are
extended. If the process dies, the leases run out and Pub/Sub delivers the messages again.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, Self, TypeVar

from google.api_core import exceptions
from google.api_core.exceptions import DeadlineExceeded, GoogleAPICallError, GoogleAPIError, NotFound
from google.cloud import pubsub_v1

LEASE_SECONDS = 60
EXTEND_EVERY_SECONDS = 20
PULL_MESSAGES = 1000
"""The most that one pull returns."""
PULL_SECONDS = 2.0
"""A plain pull waits for messages; so long without one means that there is none left to take."""
SLOW_PULL_SECONDS = 10.0
IDS_A_REQUEST = 2000
"""Pub/Sub takes requests of up to 512 KiB, and an ack id has up to some 200 bytes."""
PULLS_OF_NEWER = 10
"""After so many pulls in a row that bring only what is newer than the run, older messages are not waited for any more."""
REQUEST_SECONDS = 10.0
AWAY_SECONDS = 60.0
"""How long Pub/Sub may be away in mid-run. After a lease's time the messages are another's in any case."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.2, 5.0
PROGRESS_EVERY = 10_000

_PASSING = (
    exceptions.Aborted,
    exceptions.Cancelled,
    exceptions.DeadlineExceeded,
    exceptions.InternalServerError,
    exceptions.ResourceExhausted,
    exceptions.RetryError,
    exceptions.ServiceUnavailable,
    exceptions.Unknown,
)
"""Errors after which the same request may succeed."""

T = TypeVar("T")

_log = logging.getLogger(__name__)


class PubSubError(Exception):
    """Pub/Sub can't be used as asked. The message says what, where, and what to do."""


def patiently(
    call: Callable[[], T], name: str, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
) -> T:
    """What `call`, a request about `name`, returns.

    While Pub/Sub is away it is tried again, after pauses that double and are drawn by lot, for AWAY_SECONDS; then, and where
    trying again is of no use, PubSubError.
    """
    until, pause = clock() + AWAY_SECONDS, FIRST_PAUSE_SECONDS
    while True:
        try:
            return call()
        except NotFound:
            raise PubSubError(f"{name} does not exist any more. Was it deleted?") from None
        except GoogleAPIError as error:
            if not isinstance(error, _PASSING):
                raise PubSubError(f"{name}: Pub/Sub refuses: {told(error)}") from None
            if clock() + pause > until:
                raise PubSubError(
                    f"{name}: Pub/Sub has been away for {AWAY_SECONDS:.0f} s: {told(error)}. Run it again when it is back."
                ) from None
            if pause == FIRST_PAUSE_SECONDS:
                _log.warning("%s: Pub/Sub does not answer, trying again for %.0f s: %s", name, AWAY_SECONDS, told(error))
        sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - keeps many runs from coming back at one moment
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


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
        self._extender = threading.Thread(target=self._extend, name="leases", daemon=True)

    def __enter__(self) -> Self:
        self._extender.start()
        _open.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        self.give_back()
        _open.remove(self)

    def give_back(self) -> None:
        """Ends all leases. May be called from any thread, and again."""
        self._done.set()
        self._extender.join()
        with self._lock:
            ack_ids = list(self._held)
            self._held.clear()
        try:
            self._modify(ack_ids, 0)
        except GoogleAPIError as error:
            _log.warning(
                "%s: could not give messages back, they return in %d s: %s", self.subscription, LEASE_SECONDS, told(error)
            )

    def hold(self, ack_ids: list[str]) -> None:
        """Keeps messages from being delivered again while the run lasts. Raises PubSubError."""
        with self._lock:
            self._held.update(ack_ids)
        patiently(lambda: self._modify(ack_ids, LEASE_SECONDS), self.subscription)

    def use(self, ack_id: str) -> None:
        """The run works on this message: it is to be acknowledged when the run has succeeded."""
        self._used.append(ack_id)

    def acknowledge(self) -> int:
        """Acknowledges what was used, and returns how many that are. To be called once what they brought is durable.

        Raises PubSubError when Pub/Sub does not take it; then some are delivered again, which makes duplicates that are known.
        """
        with self._lock:
            self._held.difference_update(self._used)
        for ids in _chunks(self._used):
            patiently(lambda ids=ids: self._acknowledge(ids), self.subscription)  # type: ignore[misc]
        return len(self._used)

    def _extend(self) -> None:
        while not self._done.wait(EXTEND_EVERY_SECONDS):
            with self._lock:
                ack_ids = list(self._held)
            try:
                self._modify(ack_ids, LEASE_SECONDS)
            except GoogleAPIError as error:
                # Not fatal: what is delivered again is a duplicate, and the next round tries again.
                _log.warning("%s: could not extend %d leases: %s", self.subscription, len(ack_ids), told(error))

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


_open: list[Leases] = []


def give_all_back() -> None:
    """Ends the leases of every run in this process, for a process that is about to end without leaving its blocks."""
    for leases in _open.copy():
        leases.give_back()


def check_subscription(client: pubsub_v1.SubscriberClient, subscription: str) -> str:
    """The name of the topic that it is on. Raises PubSubError when it can't be read from, within some ten seconds."""
    call = lambda: client.get_subscription(subscription=subscription, timeout=REQUEST_SECONDS, retry=None)  # noqa: E731
    return str(_check(call, subscription).topic)


def check_topic(client: pubsub_v1.PublisherClient, topic: str) -> None:
    """Raises PubSubError when the topic is not there, within some ten seconds."""
    _check(lambda: client.get_topic(topic=topic, timeout=REQUEST_SECONDS, retry=None), topic)


def batches(leases: Leases, until: datetime) -> Iterator[list[Any]]:
    """What was published before `until` and nobody else has leased, as lists of Pub/Sub's own ReceivedMessage, until there
    is none. Raises PubSubError.

    Pub/Sub does not say when a subscription is empty: a pull that waits in vain ends the run, and the next run takes the rest.
    All messages are held; those that are newer stay so, for this run not to meet them again, and are given back at its end.
    Older ones may come behind newer ones.
    """
    count = newer = 0
    while newer < PULLS_OF_NEWER:
        received = patiently(lambda: _pull(leases), leases.subscription)
        if not received:
            return
        leases.hold([one.ack_id for one in received])
        in_time = [one for one in received if one.message.publish_time.ToDatetime(until.tzinfo) < until]
        if not in_time:
            newer += 1
            continue
        newer = 0
        before, count = count, count + len(in_time)
        if before // PROGRESS_EVERY < count // PROGRESS_EVERY:
            _log.info("%s: %d messages taken", leases.subscription, count)
        yield in_time


def told(error: GoogleAPIError) -> str:
    """What the error says, without its type and code."""
    return error.message if isinstance(error, GoogleAPICallError) else str(error)


def _pull(leases: Leases) -> list[Any]:
    """What one pull gives; nothing when it has waited in vain."""
    for seconds in (PULL_SECONDS, SLOW_PULL_SECONDS):
        try:
            response = leases.client.pull(
                subscription=leases.subscription, max_messages=PULL_MESSAGES, timeout=seconds, retry=None
            )
        except DeadlineExceeded:
            # There is nothing, or the answer was too slow: the second, longer pull tells.
            continue
        return list(type(response).pb(response).received_messages)
    return []


def _check(call: Callable[[], Any], name: str) -> Any:
    try:
        return call()
    except NotFound:
        raise PubSubError(f"{name} does not exist. Create it, or correct the name.") from None
    except GoogleAPIError as error:
        raise PubSubError(f"{name}: Pub/Sub can't be used: {told(error)}. Is it reachable, and are you allowed to?") from None


def _chunks(ids: list[str]) -> list[list[str]]:
    return [ids[i : i + IDS_A_REQUEST] for i in range(0, len(ids), IDS_A_REQUEST)]
