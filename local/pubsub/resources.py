"""What the broker knows: its topics and subscriptions. No network, no locks, no waiting.

Methods that take a `request` take and give raw protocol buffers of google.pubsub.v1 and raise the errors of
google.api_core.exceptions that the service answers with. Limits: cloud.google.com/pubsub/quotas.
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
"""A raw protocol buffer. Its classes are made when the client library is loaded, so a type checker can't see their fields."""

MAX_PUBLISH_BYTES = 10_000_000
MAX_MESSAGES = 1_000
"""In one publish, and in one answer to a pull."""
MAX_ATTRIBUTES = 100
MAX_KEY_BYTES = 256
MAX_VALUE_BYTES = 1_024
MAX_ACK_BYTES = 512 * 1024
"""Of a request to acknowledge, or to change deadlines."""
MAX_PAGE = 1_000
MIN_DEADLINE, MAX_DEADLINE = 10, 600

_ID = r"(?!goog)[A-Za-z][A-Za-z0-9_.~+%-]{2,254}"
_TOPIC = re.compile(rf"projects/[^/]+/topics/{_ID}")
_SUBSCRIPTION = re.compile(rf"projects/[^/]+/subscriptions/{_ID}")
_PROJECT = re.compile(r"projects/[^/]+")
_ACK_ID = re.compile(r"\d+-\d+-\d+")
_DELETED_TOPIC = "_deleted-topic_"


class Resources:
    """Topics and subscriptions by their full names. Not for use by several threads at once."""

    def __init__(self, clock: Callable[[], float], run: str) -> None:
        """clock: seconds since 1970; run: digits, as many in each run of a broker and never the same. They begin every id."""
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
        names, token = page((name for name, found in self._subscriptions.items() if found.topic == request.topic), request)
        return types.ListTopicSubscriptionsResponse.pb()(subscriptions=names, next_page_token=token)

    def delete_topic(self, request: Proto) -> Proto:
        """Its subscriptions stay, with what they hold."""
        self._topic(request.topic)
        del self._topics[request.topic]
        for subscription in self._subscriptions.values():
            if subscription.topic == request.topic:
                subscription.topic = _DELETED_TOPIC
        return Empty()

    def create_subscription(self, request: Proto) -> Proto:
        """It receives what is published from now on."""
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
        """All of the messages or none: each gets an id and the time of now, and goes to every subscription of the topic."""
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
        """Raises NotFound."""
        if name not in self._subscriptions:
            raise NotFound(f"subscription {name} does not exist")
        return self._subscriptions[name]

    def backlog(self, name: str) -> Backlog:
        """Of the subscription. Raises NotFound."""
        self.subscription(name)
        return self._backlogs[name]

    def acknowledge(self, request: Proto) -> Proto:
        check_size("acknowledge", request, MAX_ACK_BYTES)
        self.ack(request.subscription, request.ack_ids)
        return Empty()

    def modify_ack_deadline(self, request: Proto) -> Proto:
        check_size("modify_ack_deadline", request, MAX_ACK_BYTES)
        self.extend(request.subscription, request.ack_ids, request.ack_deadline_seconds)
        return Empty()

    def take(self, name: str, seconds: float, limit: int, flow: Flow) -> list[tuple[str, bytes]]:
        """Leases up to `limit` messages of the subscription for `seconds`: their ack ids, and serialized PubsubMessages."""
        return self.backlog(name).take(self._clock(), seconds, min(limit, MAX_MESSAGES), flow)

    def ack(self, name: str, ack_ids: Sequence[str]) -> None:
        """Forgets the messages. An ack id whose lease has ended changes nothing."""
        backlog = self.backlog(name)
        check_ack_ids(ack_ids)
        backlog.ack(self._clock(), ack_ids)

    def extend(self, name: str, ack_ids: Sequence[str], seconds: int) -> None:
        """Lets the leases end in `seconds`; at 0 the messages are available at once. An ended lease stays ended."""
        backlog = self.backlog(name)
        check_range("the deadline", seconds, 0, MAX_DEADLINE)
        check_ack_ids(ack_ids)
        backlog.extend(self._clock(), ack_ids, seconds)

    def seconds_to_next_end(self, name: str) -> float | None:
        """Until the subscription's next lease ends, 0 or more; None where nothing is leased."""
        end = self.backlog(name).next_end()
        return None if end is None else max(end - self._clock(), 0.0)

    def _topic(self, name: str) -> Proto:
        if name not in self._topics:
            raise NotFound(f"topic {name} does not exist")
        return self._topics[name]


def check_publish(request: Proto) -> None:
    """Raises InvalidArgument, or MethodNotImplemented, where the request breaks a limit or asks for what there is not."""
    check_range("the number of messages in a publish", len(request.messages), 1, MAX_MESSAGES)
    check_size("publish", request, MAX_PUBLISH_BYTES)
    for place, message in enumerate(request.messages):
        attributes = message.attributes
        if not message.data and not attributes:
            raise InvalidArgument(f"message {place} has neither data nor attributes")
        if message.ordering_key:
            raise MethodNotImplemented(f"message {place} has an ordering key; the local broker keeps no order")
        if len(attributes) > MAX_ATTRIBUTES:
            raise InvalidArgument(f"message {place} has {len(attributes)} attributes; at most {MAX_ATTRIBUTES} are allowed")
        for key, value in attributes.items():
            if not 0 < len(key.encode()) <= MAX_KEY_BYTES:
                raise InvalidArgument(
                    f"message {place} has an attribute whose key is empty or has more than {MAX_KEY_BYTES} bytes"
                )
            if len(value.encode()) > MAX_VALUE_BYTES:
                raise InvalidArgument(f"message {place}: the value of attribute {key} has more than {MAX_VALUE_BYTES} bytes")


def check_ack_ids(ack_ids: Sequence[str]) -> None:
    """Raises InvalidArgument where there is none, or one that no broker has made."""
    if not ack_ids:
        raise InvalidArgument("there are no ack ids")
    for ack_id in ack_ids:
        if not _ACK_ID.fullmatch(ack_id):
            raise InvalidArgument("an ack id is none that a broker has made; a message id is not an ack id")


def check_name(pattern: re.Pattern[str], name: str) -> None:
    if not pattern.fullmatch(name):
        raise InvalidArgument(f"{name!r} is no valid name; expected is one that matches {pattern.pattern}")


def check_range(what: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise InvalidArgument(f"{what} is {value}; it must lie between {least} and {most}")


def check_size(what: str, request: Proto, most: int) -> None:
    if request.ByteSize() > most:
        raise InvalidArgument(f"the {what} request has {request.ByteSize()} bytes; at most {most} are allowed")


def check_fields(request: Proto, *known: str) -> None:
    """Raises MethodNotImplemented where another field is set. One that is set to an empty message asks for nothing."""
    for field, value in request.ListFields():
        if field.name not in known and not (isinstance(value, Message) and not value.ByteSize()):
            raise MethodNotImplemented(f"the local broker has no {field.name}; leave it out, or use Cloud Pub/Sub")


def page(names: Iterable[str], request: Proto) -> tuple[list[str], str]:
    """The names of the asked page, sorted, and the token of the next one, which is empty at the end."""
    check_range("page_size", request.page_size, 0, MAX_PAGE)
    ordered = sorted(names)
    start = bisect_right(ordered, request.page_token)
    end = start + (request.page_size or MAX_PAGE)
    return ordered[start:end], ordered[end - 1] if end < len(ordered) else ""
