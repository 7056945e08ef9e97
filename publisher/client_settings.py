"""How the client library talks to Pub/Sub: limits, retries, and what is refused before it can hurt a whole batch."""

from __future__ import annotations

import re
from collections.abc import Mapping

from google.api_core import exceptions
from google.api_core.retry import Retry, if_exception_type
from google.api_core.timeout import ConstantTimeout
from google.auth.exceptions import GoogleAuthError
from google.cloud.pubsub_v1 import PublisherClient
from google.cloud.pubsub_v1.types import BatchSettings, LimitExceededBehavior, PublisherOptions, PublishFlowControl

from publisher.errors import PublisherError, one_line

PUBLISH_DEADLINE_SECONDS = 600.0
"""How long a publish is retried. Long enough for a restart or a short outage of Pub/Sub; then the message is a failure."""

ATTEMPT_SECONDS = 60.0
"""How long one attempt may take."""

ANSWER_SECONDS = PUBLISH_DEADLINE_SECONDS + 2 * ATTEMPT_SECONDS
"""When an answer is given up for good. The client answers earlier, unless one of its threads has died."""

CHECK_SECONDS = 8.0
"""How long the check of a topic may take before anything is published."""

BATCH_MESSAGES = 1_000
"""Pub/Sub takes no more messages in one request."""

BATCH_BYTES = 2_000_000
BATCH_LATENCY_SECONDS = 0.02

OUTSTANDING_MESSAGES = 20_000
OUTSTANDING_BYTES = 64_000_000
"""Above either limit `publish` blocks until answers come. The client's own default is not to care, and to fill the memory."""

MAX_DATA_BYTES = 9_800_000
"""Pub/Sub takes 10 MB in one request; the rest is for the attributes."""

MAX_ATTRIBUTES = 100
MAX_ATTRIBUTE_KEY_BYTES = 256
MAX_ATTRIBUTE_VALUE_BYTES = 1_024
"""The quotas of Pub/Sub for one message."""

_TOPIC = re.compile(r"projects/[^/\s]+/topics/[^/\s]+")

_ARGUMENTS = frozenset({"self", "topic", "data", "ordering_key", "retry", "timeout"})
"""Parameters of the client's publish, which takes attributes as keywords beside them."""


def make_client() -> PublisherClient:
    """A client with the settings above. Where PUBSUB_EMULATOR_HOST is set it talks to that, and looks for no credentials.

    Raises google.auth.exceptions.GoogleAuthError when it finds no credentials.
    """
    retry = Retry(
        predicate=if_exception_type(
            exceptions.Aborted,
            exceptions.Cancelled,
            exceptions.DeadlineExceeded,
            exceptions.InternalServerError,
            exceptions.ResourceExhausted,
            exceptions.ServiceUnavailable,
            exceptions.Unknown,
        ),
        initial=0.1,
        maximum=15.0,
        multiplier=2.0,
        timeout=PUBLISH_DEADLINE_SECONDS,
    )
    flow_control = PublishFlowControl(OUTSTANDING_MESSAGES, OUTSTANDING_BYTES, LimitExceededBehavior.BLOCK)
    timeout = ConstantTimeout(ATTEMPT_SECONDS)  # a plain number would be the limit of all attempts together
    return PublisherClient(
        batch_settings=BatchSettings(BATCH_BYTES, BATCH_LATENCY_SECONDS, BATCH_MESSAGES),
        publisher_options=PublisherOptions(flow_control=flow_control, retry=retry, timeout=timeout),
    )


def check_name(topic: str) -> None:
    """Raises PublisherError for what is not the full name of a topic."""
    if not _TOPIC.fullmatch(topic):
        raise PublisherError(f"{topic!r} is not a topic. Write it as projects/PROJECT/topics/NAME.")


def check_topic(client: PublisherClient, topic: str) -> None:
    """Raises PublisherError when a topic does not exist, or when Pub/Sub does not answer within CHECK_SECONDS.

    Says nothing where the account may not look at the topic: it may be allowed to publish all the same.
    """
    try:
        client.get_topic(topic=topic, retry=None, timeout=CHECK_SECONDS)
    except exceptions.PermissionDenied:
        return
    except exceptions.NotFound:
        raise PublisherError(f"topic {topic} does not exist. Create it, or correct its name.") from None
    except (exceptions.GoogleAPICallError, GoogleAuthError) as error:
        hint = "Is it running, and is PUBSUB_EMULATOR_HOST right, or unset for Cloud Pub/Sub?"
        raise PublisherError(f"Pub/Sub can't be reached at {client.target}: {one_line(error)}. {hint}") from None


def refusal(data: bytes, attributes: Mapping[str, str]) -> str | None:
    """Why Pub/Sub or its client would refuse the message, or None.

    Pub/Sub refuses the whole request that such a message is in, and its client never gives back the room that an
    oversized one took in the flow control. So it must not come that far.
    """
    if len(data) > MAX_DATA_BYTES:
        return f"the payload has {len(data)} bytes; at most {MAX_DATA_BYTES} can be published"
    if not data and not attributes:
        return "neither payload nor attributes"
    if len(attributes) > MAX_ATTRIBUTES:
        return f"{len(attributes)} attributes; at most {MAX_ATTRIBUTES} can be published"
    for key, value in attributes.items():
        if not key or key in _ARGUMENTS or key.startswith("goog"):
            return f"an attribute can't be called {key!r}"
        try:
            key_bytes, value_bytes = len(key.encode()), len(value.encode())
        except UnicodeEncodeError:
            return f"attribute {key!r} is not valid Unicode"
        if key_bytes > MAX_ATTRIBUTE_KEY_BYTES or value_bytes > MAX_ATTRIBUTE_VALUE_BYTES:
            limits = f"a name has {MAX_ATTRIBUTE_KEY_BYTES} bytes at most, a value {MAX_ATTRIBUTE_VALUE_BYTES}"
            return f"attribute {key!r:.80} is too long: {limits}"
    return None
