"""Requests to Pub/Sub: how long they may take, which are retried, and the messages of their errors."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

from google.api_core import exceptions
from google.api_core.exceptions import GoogleAPICallError, GoogleAPIError, NotFound, RetryError
from google.api_core.retry import Retry, if_exception_type
from google.cloud import pubsub_v1

from schemas.errors import EventDeliveryError

REQUEST_SECONDS = 10.0
AWAY_SECONDS = 60.0
"""How long Pub/Sub may be unreachable in mid-run. After a lease's time the messages are another's in any case."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.2, 5.0
"""Bounds of the random pause before a retry: the bound doubles from the first to the longest."""

TRANSIENT = (
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


def with_retry(call: Callable[[], T], name: str) -> T:
    """Call Pub/Sub, and retry transient errors for AWAY_SECONDS with exponential back-off and jitter.

    Args:
        call: one request, without retries of its own.
        name: the topic or subscription that the request is about.

    Raises:
        PubSubError: the resource does not exist, the error is permanent, or Pub/Sub stays unreachable.
    """
    warned = False

    def warn_once(error: Exception) -> None:
        nonlocal warned
        if not warned:
            _log.warning("%s: Pub/Sub does not answer, trying again for %.0f s: %s", name, AWAY_SECONDS, message_of(error))
        warned = True

    retry = Retry(
        if_exception_type(*TRANSIENT),
        initial=FIRST_PAUSE_SECONDS,
        maximum=LONGEST_PAUSE_SECONDS,
        timeout=AWAY_SECONDS,
        on_error=warn_once,
    )
    try:
        return retry(call)()
    except NotFound:
        raise PubSubError(f"{name} does not exist any more. Was it deleted?") from None
    except RetryError as error:
        raise PubSubError(
            f"{name}: Pub/Sub has been unreachable for {AWAY_SECONDS:.0f} s: {message_of(error.cause or error)}. "
            "Run it again when it is back."
        ) from None
    except GoogleAPIError as error:
        raise PubSubError(f"{name}: Pub/Sub refuses: {message_of(error)}") from None


def message_of(error: Exception) -> str:
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
