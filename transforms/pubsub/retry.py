"""Requests to Pub/Sub: time limits, retries, and errors in our own words."""

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
"""How long one request may take."""
RETRY_SECONDS = 60.0
"""How long Pub/Sub may be unreachable during a run. By then the leases of its messages have expired in any case."""
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

CHECK_NETWORK = "check the network and the account's permissions"
"""Remedy for a request that has failed."""

T = TypeVar("T")

_log = logging.getLogger(__name__)


class PubSubError(EventDeliveryError):
    """Pub/Sub refused a request, or was unreachable for too long. The message names the resource and the remedy."""


def with_retry(call: Callable[[], T], name: str) -> T:
    """Call Pub/Sub, and retry transient errors for RETRY_SECONDS with exponential back-off and jitter.

    Args:
        call: One request, without retries of its own.
        name: The topic or subscription that the request is about.

    Raises:
        PubSubError: The resource does not exist, the error is permanent, or Pub/Sub stays unreachable.
    """
    warned = False

    def warn_once(error: Exception) -> None:
        nonlocal warned
        if not warned:
            _log.warning("%s: Pub/Sub does not answer, retrying for %.0f s: %s", name, RETRY_SECONDS, message_of(error))
        warned = True

    retry = Retry(
        if_exception_type(*TRANSIENT),
        initial=FIRST_PAUSE_SECONDS,
        maximum=LONGEST_PAUSE_SECONDS,
        timeout=RETRY_SECONDS,
        on_error=warn_once,
    )
    try:
        return retry(call)()
    except NotFound:
        raise PubSubError(f"{name} does not exist any more. What to do: create it again, or name another one") from None
    except RetryError as error:
        raise PubSubError(
            f"{name}: Pub/Sub has been unreachable for {RETRY_SECONDS:.0f} s: {message_of(error.cause or error)}. "
            "What to do: run the command again when Pub/Sub is reachable"
        ) from None
    except GoogleAPIError as error:
        raise PubSubError(
            f"{name}: Pub/Sub refused a request: {message_of(error)}. What to do: correct the permissions or the resource"
        ) from None


def message_of(error: Exception) -> str:
    """Return the message of an error of the client, without type and code."""
    return error.message if isinstance(error, GoogleAPICallError) else str(error)


def check_subscription(client: pubsub_v1.SubscriberClient, subscription: str, if_unreachable: str = CHECK_NETWORK) -> str:
    """Return the name of the subscription's topic.

    Args:
        if_unreachable: Remedy to name if Pub/Sub does not answer.

    Raises:
        PubSubError: The subscription can't be used. Raised within REQUEST_SECONDS, without a retry.
    """
    call = lambda: client.get_subscription(subscription=subscription, timeout=REQUEST_SECONDS, retry=None)  # noqa: E731
    return str(_check(call, subscription, if_unreachable).topic)


def check_topic(client: pubsub_v1.PublisherClient, topic: str, if_unreachable: str = CHECK_NETWORK) -> None:
    """Check that the topic exists.

    Args:
        if_unreachable: Remedy to name if Pub/Sub does not answer.

    Raises:
        PubSubError: The topic can't be used. Raised within REQUEST_SECONDS, without a retry.
    """
    _check(lambda: client.get_topic(topic=topic, timeout=REQUEST_SECONDS, retry=None), topic, if_unreachable)


def _check(call: Callable[[], Any], name: str, if_unreachable: str) -> Any:
    try:
        return call()
    except NotFound:
        raise PubSubError(f"{name} does not exist. What to do: create it, or correct the name") from None
    except GoogleAPIError as error:
        remedy = if_unreachable if isinstance(error, TRANSIENT) else CHECK_NETWORK
        raise PubSubError(f"{name}: Pub/Sub can't be used: {message_of(error)}. What to do: {remedy}") from None
