"""Settings of the Pub/Sub client: limits, retries, time-outs, and checks of a message before it joins a batch."""

from __future__ import annotations

import os
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
"""How long a publish is retried, which covers a restart or a short outage of Pub/Sub. After that the message is a failure."""

ATTEMPT_SECONDS = 60.0
"""How long one attempt may take."""

ANSWER_SECONDS = PUBLISH_DEADLINE_SECONDS + 2 * ATTEMPT_SECONDS
"""How long an acknowledgement is waited for. The client reports an error earlier, unless one of its threads has died."""

CHECK_SECONDS = 8.0
"""How long the check of a topic may take."""

BATCH_MESSAGES = 1_000
"""Maximum number of messages that Pub/Sub accepts in one request."""

BATCH_BYTES = 2_000_000
BATCH_LATENCY_SECONDS = 0.02
"""How long a batch waits for further messages."""

OUTSTANDING_MESSAGES = 20_000
OUTSTANDING_BYTES = 64_000_000
"""Limits of the messages that are not acknowledged yet: `publish` blocks above either of them. The client library has no limits
by default, so that its memory grows."""

MAX_DATA_BYTES = 9_800_000
"""Pub/Sub accepts 10 MB in one request; the difference is for the attributes."""

MAX_ATTRIBUTES = 100
MAX_ATTRIBUTE_KEY_BYTES = 256
MAX_ATTRIBUTE_VALUE_BYTES = 1_024
"""Pub/Sub's limits for one message."""

_TOPIC = re.compile(r"projects/[^/\s]+/topics/[^/\s]+")

_ARGUMENTS = frozenset({"self", "topic", "data", "ordering_key", "retry", "timeout"})
"""Parameters of `PublisherClient.publish`, which takes the attributes as further keyword arguments."""


def make_client() -> PublisherClient:
    """Return a client with the settings of this module.

    If PUBSUB_EMULATOR_HOST is set, the client connects to that host, without credentials.

    Raises:
        google.auth.exceptions.GoogleAuthError: there are no credentials.
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
    timeout = ConstantTimeout(ATTEMPT_SECONDS)  # a plain number would limit the sum of all attempts
    return PublisherClient(
        batch_settings=BatchSettings(BATCH_BYTES, BATCH_LATENCY_SECONDS, BATCH_MESSAGES),
        publisher_options=PublisherOptions(flow_control=flow_control, retry=retry, timeout=timeout),
    )


def check_name(topic: str) -> None:
    """Raise PublisherError unless `topic` is the full name of a topic."""
    if not _TOPIC.fullmatch(topic):
        raise PublisherError(f"{topic!r} is not the name of a topic. What to do: pass projects/PROJECT/topics/NAME")


def check_topic(client: PublisherClient, topic: str) -> None:
    """Raise PublisherError if a topic does not exist, or Pub/Sub does not respond within CHECK_SECONDS.

    A missing permission to read the topic is no error, because the account may still have the permission to publish.
    """
    try:
        client.get_topic(topic=topic, retry=None, timeout=CHECK_SECONDS)
    except exceptions.PermissionDenied:
        return
    except exceptions.NotFound:
        raise PublisherError(f"topic {topic} does not exist. What to do: create it, or correct its name") from None
    except (exceptions.GoogleAPICallError, GoogleAuthError) as error:
        remedy = "start the broker (python -m local.pubsub) or unset PUBSUB_EMULATOR_HOST"
        hint = f"What to do: {remedy if os.environ.get('PUBSUB_EMULATOR_HOST') else 'check the network'}"
        raise PublisherError(f"Pub/Sub can't be reached at {client.target}: {one_line(error)}. {hint}") from None


def refusal(data: bytes, attributes: Mapping[str, str]) -> str | None:
    """Return the reason why Pub/Sub or its client would reject a message, or None if they would accept it.

    Such a message must not reach the client: Pub/Sub rejects the whole batch that contains it, and the client's flow control
    never releases the bytes of an oversized one.
    """
    if len(data) > MAX_DATA_BYTES:
        return f"the payload has {len(data)} bytes; at most {MAX_DATA_BYTES} can be published"
    if not data and not attributes:
        return "the message has neither payload nor attributes"
    if len(attributes) > MAX_ATTRIBUTES:
        return f"the message has {len(attributes)} attributes; at most {MAX_ATTRIBUTES} can be published"
    for key, value in attributes.items():
        if not key or key in _ARGUMENTS or key.startswith("goog"):
            return f"an attribute can't be named {key!r}"
        try:
            key_bytes, value_bytes = len(key.encode()), len(value.encode())
        except UnicodeEncodeError:
            return f"attribute {key!r} is not valid Unicode"
        if key_bytes > MAX_ATTRIBUTE_KEY_BYTES or value_bytes > MAX_ATTRIBUTE_VALUE_BYTES:
            limits = f"a name has {MAX_ATTRIBUTE_KEY_BYTES} bytes at most, a value {MAX_ATTRIBUTE_VALUE_BYTES}"
            return f"attribute {key!r:.80} is too long: {limits}"
    return None
