"""Topics and subscriptions of the broker, without network, locks or waiting.

Methods with a `request` accept and return raw protocol buffers of google.pubsub.v1. They raise the errors of
google.api_core.exceptions with which the service responds. The limits are those of cloud.google.com/pubsub/quotas.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from typing import Any, TypeAlias

from google.api_core.exceptions import AlreadyExists, InvalidArgument, MethodNotImplemented, NotFound
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.pubsub_v1 import types

from local.pubsub.backlog import Backlog, Flow

Proto: TypeAlias = Any
"""A raw protocol buffer. Its class is created at import of the client library, so type checkers can't check its fields."""

MAX_PUBLISH_BYTES = 10_000_000
"""Size of a publish request."""
MAX_MESSAGES = 1_000
"""Messages of a publish request, and of a response to a pull."""
MAX_ATTRIBUTES = 100
"""Attributes of a message."""
MAX_KEY_BYTES = 256
"""Size of an attribute's key."""
MAX_VALUE_BYTES = 1_024
"""Size of an attribute's value."""
MAX_ACK_BYTES = 512 * 1024
"""Size of a request to acknowledge, or to modify ack deadlines."""
MAX_PAGE = 1_000
"""Names in a page of a list."""
MIN_DEADLINE, MAX_DEADLINE = 10, 600
"""Ack deadline of a subscription, in seconds."""

_ID = r"(?!goog)[A-Za-z][A-Za-z0-9_.~+%-]{2,254}"
_TOPIC = re.compile(rf"projects/[^/]+/topics/{_ID}")
_SUBSCRIPTION = re.compile(rf"projects/[^/]+/subscriptions/{_ID}")
_PROJECT = re.compile(r"projects/[^/]+")
_ACK_ID = re.compile(r"\d+-\d+-\d+")
_DELETED_TOPIC = "_deleted-topic_"


class Resources:
    """Topics and subscriptions by their full names. Not thread-safe."""

    def __init__(self, clock: Callable[[], float], run: str) -> None:
        """Create a broker's resources without any topic.

        Args:
            clock: Returns seconds since 1970.
            run: Prefix of all ids: digits, of the same length in every run, different in each.
        """
        self._clock = clock
        self._run = run
        self._message_ids = count(1)
        self._backlog_ids = count(1)
        self._topics: dict[str, Proto] = {}
        self._subscriptions: dict[str, Proto] = {}
        self._backlogs: dict[str, Backlog] = {}

    def create_topic(self, request: Proto) -> Proto:
        check_name(_TOPIC, request.name)
        check_fields(request, "name", "labels")
        if request.name in self._topics:
            raise AlreadyExists(f"topic {request.name} exists already")
        self._topics[request.name] = request
        return request

    def get_topic(self, request: Proto) -> Proto:
        return self._topic(request.topic)

    def list_topics(self, request: Proto) -> Proto:
        check_name(_PROJECT, request.project)
        names, token = page((name for name in self._topics if name.startswith(f"{request.project}/")), request)
        return types.ListTopicsResponse.pb()(topics=[self._topics[name] for name in names], next_page_token=token)

    def list_topic_subscriptions(self, request: Proto) -> Proto:
        self._topic(request.topic)
        of_topic = (name for name, subscription in self._subscriptions.items() if subscription.topic == request.topic)
        names, token = page(of_topic, request)
        return types.ListTopicSubscriptionsResponse.pb()(subscriptions=names, next_page_token=token)

    def delete_topic(self, request: Proto) -> Proto:
        """Delete a topic. Its subscriptions remain, with their messages."""
        self._topic(request.topic)
        del self._topics[request.topic]
        for subscription in self._subscriptions.values():
            if subscription.topic == request.topic:
                subscription.topic = _DELETED_TOPIC
        return Empty()

    def create_subscription(self, request: Proto) -> Proto:
        """Create a subscription. It receives the messages that are published from now on."""
        check_name(_SUBSCRIPTION, request.name)
        check_fields(request, "name", "topic", "labels", "ack_deadline_seconds")
        request.ack_deadline_seconds = request.ack_deadline_seconds or MIN_DEADLINE
        check_range("ack_deadline_seconds", request.ack_deadline_seconds, MIN_DEADLINE, MAX_DEADLINE)
        self._topic(request.topic)
        if request.name in self._subscriptions:
            raise AlreadyExists(f"subscription {request.name} exists already")
        request.state = types.Subscription.State.ACTIVE
        self._subscriptions[request.name] = request
        self._backlogs[request.name] = Backlog(f"{self._run}-{next(self._backlog_ids)}")
        return request

    def get_subscription(self, request: Proto) -> Proto:
        return self.subscription(request.subscription)

    def list_subscriptions(self, request: Proto) -> Proto:
        check_name(_PROJECT, request.project)
        names, token = page((name for name in self._subscriptions if name.startswith(f"{request.project}/")), request)
        return types.ListSubscriptionsResponse.pb()(
            subscriptions=[self._subscriptions[name] for name in names], next_page_token=token
        )

    def delete_subscription(self, request: Proto) -> Proto:
        self.subscription(request.subscription)
        del self._subscriptions[request.subscription], self._backlogs[request.subscription]
        return Empty()

    def publish(self, request: Proto) -> Proto:
        """Publish all messages or none. Each gets an id and the present time, and goes to every subscription of the topic."""
        self._topic(request.topic)
        check_publish(request)
        published_at = Timestamp()
        published_at.FromMicroseconds(int(self._clock() * 1e6))
        messages: list[bytes] = []
        response = types.PublishResponse.pb()()
        for message in request.messages:
            message.message_id = f"{self._run}{next(self._message_ids)}"
            message.publish_time.CopyFrom(published_at)
            response.message_ids.append(message.message_id)
            messages.append(message.SerializeToString())
        for name, subscription in self._subscriptions.items():
            if subscription.topic == request.topic:
                self._backlogs[name].add(messages)
        return response

    def subscription(self, name: str) -> Proto:
        """Return the subscription. Raise NotFound if it does not exist."""
        if name not in self._subscriptions:
            raise NotFound(f"subscription {name} does not exist")
        return self._subscriptions[name]

    def backlog(self, name: str) -> Backlog:
        """Return the backlog of the subscription. Raise NotFound if it does not exist."""
        self.subscription(name)
        return self._backlogs[name]

    def acknowledge(self, request: Proto) -> Proto:
        """Respond to a request of its own to acknowledge. `ack` does the same for a request on an open stream."""
        check_size("acknowledge", request, MAX_ACK_BYTES)
        self.ack(request.subscription, request.ack_ids)
        return Empty()

    def modify_ack_deadline(self, request: Proto) -> Proto:
        """Respond to a request of its own to change leases. `set_expiry` does the same for a request on an open stream."""
        check_size("modify_ack_deadline", request, MAX_ACK_BYTES)
        self.set_expiry(request.subscription, request.ack_ids, request.ack_deadline_seconds)
        return Empty()

    def take(self, name: str, seconds: float, limit: int, flow: Flow) -> list[tuple[str, bytes]]:
        """Lease up to `limit` messages of the subscription for `seconds`.

        Returns:
            The ack id and the serialized PubsubMessage of each.
        """
        return self.backlog(name).take(self._clock(), seconds, min(limit, MAX_MESSAGES), flow)

    def ack(self, name: str, ack_ids: Sequence[str]) -> None:
        """Delete the messages. Ack ids of expired leases are ignored."""
        backlog = self.backlog(name)
        check_ack_ids(ack_ids)
        backlog.ack(self._clock(), ack_ids)

    def set_expiry(self, name: str, ack_ids: Sequence[str], seconds: int) -> None:
        """Let leases expire in `seconds` from now, later or earlier than before; 0: at once. Expired ones stay expired."""
        backlog = self.backlog(name)
        check_range("the deadline", seconds, 0, MAX_DEADLINE)
        check_ack_ids(ack_ids)
        backlog.set_expiry(self._clock(), ack_ids, seconds)

    def seconds_to_next_expiry(self, name: str) -> float | None:
        """Return the seconds until the next lease of the subscription expires, 0 or more, or None if there is no lease."""
        expiry = self.backlog(name).next_expiry()
        return None if expiry is None else max(expiry - self._clock(), 0.0)

    def _topic(self, name: str) -> Proto:
        if name not in self._topics:
            raise NotFound(f"topic {name} does not exist")
        return self._topics[name]


def check_publish(request: Proto) -> None:
    """Check a publish request against the limits.

    Raises:
        InvalidArgument: The request exceeds a limit, or a message is empty.
        MethodNotImplemented: A message has an ordering key.
    """
    check_range("the number of messages in a publish", len(request.messages), 1, MAX_MESSAGES)
    check_size("publish", request, MAX_PUBLISH_BYTES)
    for position, message in enumerate(request.messages):
        attributes = message.attributes
        if not message.data and not attributes:
            raise InvalidArgument(f"message {position} has neither data nor attributes")
        if message.ordering_key:
            raise MethodNotImplemented(
                f"message {position} has an ordering key, but the local broker does not support ordering"
            )
        if len(attributes) > MAX_ATTRIBUTES:
            raise InvalidArgument(f"message {position} has {len(attributes)} attributes; at most {MAX_ATTRIBUTES} are allowed")
        for key, value in attributes.items():
            if not 0 < len(key.encode()) <= MAX_KEY_BYTES:
                raise InvalidArgument(
                    f"message {position} has an attribute whose key is empty or has more than {MAX_KEY_BYTES} bytes"
                )
            if len(value.encode()) > MAX_VALUE_BYTES:
                raise InvalidArgument(f"message {position}: the value of attribute {key} has more than {MAX_VALUE_BYTES} bytes")


def check_ack_ids(ack_ids: Sequence[str]) -> None:
    """Raise InvalidArgument if there is no ack id, or one that a broker can't have created."""
    if not ack_ids:
        raise InvalidArgument("the request has no ack ids")
    for ack_id in ack_ids:
        if not _ACK_ID.fullmatch(ack_id):
            raise InvalidArgument("an ack id was not created by a broker; a message id can't be used as an ack id")


def check_name(pattern: re.Pattern[str], name: str) -> None:
    """Raise InvalidArgument if `name` does not match `pattern`."""
    if not pattern.fullmatch(name):
        raise InvalidArgument(f"{name!r} is not a valid name: it does not match {pattern.pattern}")


def check_range(subject: str, value: int, least: int, most: int) -> None:
    """Raise InvalidArgument, with `subject`, if `value` is not between `least` and `most`, both included."""
    if not least <= value <= most:
        raise InvalidArgument(f"{subject} is {value}; it must be between {least} and {most}")


def check_size(method: str, request: Proto, most: int) -> None:
    """Raise InvalidArgument if the request of `method` has more than `most` bytes."""
    if request.ByteSize() > most:
        raise InvalidArgument(f"the {method} request has {request.ByteSize()} bytes; at most {most} are allowed")


def check_fields(request: Proto, *supported: str) -> None:
    """Raise MethodNotImplemented if a field that is not in `supported` is set, unless it has an empty message."""
    for field, value in request.ListFields():
        if field.name not in supported and not (isinstance(value, Message) and not value.ByteSize()):
            raise MethodNotImplemented(f"the local broker does not support {field.name}; leave it out, or use Cloud Pub/Sub")


def page(names: Iterable[str], request: Proto) -> tuple[list[str], str]:
    """Return the requested page of the sorted names, and the token of the next page, which is empty after the last one."""
    check_range("page_size", request.page_size, 0, MAX_PAGE)
    ordered = sorted(names)
    start = bisect_right(ordered, request.page_token)
    end = start + (request.page_size or MAX_PAGE)
    return ordered[start:end], ordered[end - 1] if end < len(ordered) else ""
