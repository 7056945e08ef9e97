"""Requests to Pub/Sub: how long they may take, which are retried, and the messages of their errors."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

from google.api_core import exceptions
from google.api_core.exceptions import GoogleAPICallError, GoogleAPIError, NotFound
from google.cloud import pubsub_v1

from schemas.errors import EventDeliveryError

REQUEST_SECONDS = 10.0
AWAY_SECONDS = 60.0
"""How long Pub/Sub may be unreachable in mid-run. After a lease's time the messages are another's in any case."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.2, 5.0

PASSING = (
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


class PubSubError(EventDeliveryError):
    """Pub/Sub can't be used as asked. The message says what, where, and what to do."""


def with_retry(
    call: Callable[[], T], name: str, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
) -> T:
    """What `call`, a request about `name`, returns.

    While Pub/Sub is unreachable it is retried, after pauses that double and are drawn by lot, for AWAY_SECONDS; then, and where
    trying again is of no use, PubSubError.
    """
    until, pause = clock() + AWAY_SECONDS, FIRST_PAUSE_SECONDS
    while True:
        try:
            return call()
        except NotFound:
            raise PubSubError(f"{name} does not exist any more. Was it deleted?") from None
        except GoogleAPIError as error:
            if not isinstance(error, PASSING):
                raise PubSubError(f"{name}: Pub/Sub refuses: {message_of(error)}") from None
            if clock() + pause > until:
                raise PubSubError(
                    f"{name}: Pub/Sub has been unreachable for {AWAY_SECONDS:.0f} s: {message_of(error)}. "
                    "Run it again when it is back."
                ) from None
            if pause == FIRST_PAUSE_SECONDS:
                _log.warning("%s: Pub/Sub does not answer, trying again for %.0f s: %s", name, AWAY_SECONDS, message_of(error))
        sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - keeps many runs from coming back at one moment
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def message_of(error: GoogleAPIError) -> str:
    """The error's message, without its type and code."""
    return error.message if isinstance(error, GoogleAPICallError) else str(error)


def check_subscription(client: pubsub_v1.SubscriberClient, subscription: str) -> str:
    """The name of the topic that it is on. Raises PubSubError when it can't be read from, within some ten seconds."""
    call = lambda: client.get_subscription(subscription=subscription, timeout=REQUEST_SECONDS, retry=None)  # noqa: E731
    return str(_check(call, subscription).topic)


def check_topic(client: pubsub_v1.PublisherClient, topic: str) -> None:
    """Raises PubSubError when the topic is not there, within some ten seconds."""
    _check(lambda: client.get_topic(topic=topic, timeout=REQUEST_SECONDS, retry=None), topic)


def _check(call: Callable[[], Any], name: str) -> Any:
    try:
        return call()
    except NotFound:
        raise PubSubError(f"{name} does not exist. Create it, or correct the name.") from None
    except GoogleAPIError as error:
        raise PubSubError(
            f"{name}: Pub/Sub can't be used: {message_of(error)}. Is it reachable, and are you allowed to?"
        ) from None
