"""The local broker beyond the contract of Pub/Sub: its clock, its limits, and unsupported requests."""

from __future__ import annotations

import pytest
from google.api_core.exceptions import InvalidArgument, MethodNotImplemented, NotFound
from google.protobuf.duration_pb2 import Duration
from google.pubsub_v1.services.publisher import PublisherClient
from google.pubsub_v1.types import (
    ListTopicsRequest,
    PublishRequest,
    PubsubMessage,
    PushConfig,
    StreamingPullRequest,
    Subscription,
    Topic,
)

from local.pubsub.broker import Broker
from tests.support.pubsub import (
    PROJECT,
    publish,
    publisher,
    pull_now,
    subscriber,
)

PROJECT_NAME = f"projects/{PROJECT}"


def test_publish__time_of_clock(address, clock, client, topic, subscription):
    """The publish time is that of the clock and does not change at redelivery."""
    publish(address, topic, b"x")
    clock.advance(5)
    [first] = pull_now(client, subscription)
    assert first.message.publish_time.timestamp() == clock.now - 5
    clock.advance(9.9)
    assert pull_now(client, subscription) == []
    clock.advance(0.2)
    [second] = pull_now(client, subscription)
    assert (second.message, second.ack_id == first.ack_id) == (first.message, False)


def test_acknowledge__ids_of_earlier_run(clock):
    """Ack ids of an earlier run acknowledge nothing, and message ids differ from its ids."""
    message_ids: set[str] = set()
    ack_ids: list[str] = []
    for _ in range(2):
        with Broker(clock=clock) as broker, subscriber(broker.address) as client, publisher(broker.address) as topics:
            topics.create_topic(name=f"{PROJECT_NAME}/topics/same")
            name = f"{PROJECT_NAME}/subscriptions/same"
            client.create_subscription(name=name, topic=f"{PROJECT_NAME}/topics/same")
            message_ids.update(publish(broker.address, f"{PROJECT_NAME}/topics/same", b"x", b"y"))
            leased = [received.ack_id for received in pull_now(client, name)]
            if ack_ids:
                client.acknowledge(subscription=name, ack_ids=ack_ids)
                client.modify_ack_deadline(subscription=name, ack_ids=leased, ack_deadline_seconds=0)
                assert len(pull_now(client, name)) == 2
            ack_ids += leased
    assert len(message_ids) == 4


LIMITS = {
    "no messages": [],
    "1,001 messages": [PubsubMessage(data=b"x")] * 1_001,
    "neither data nor attributes": [PubsubMessage(data=b"x"), PubsubMessage()],
    "above 10 MB": [PubsubMessage(data=bytes(5_000_000))] * 2,
    "101 attributes": [PubsubMessage(attributes={str(n): "" for n in range(101)})],
    "an empty key": [PubsubMessage(attributes={"": "v"})],
    "a key of 257 bytes": [PubsubMessage(attributes={"é" * 128 + "k": "v"})],
    "a value of 1,025 bytes": [PubsubMessage(attributes={"k": "é" * 512 + "v"})],
}


@pytest.mark.parametrize("messages", LIMITS.values(), ids=LIMITS.keys())
def test_publish__beyond_limit(address, client, topic, subscription, messages):
    """A publish beyond a limit is refused as a whole."""
    with pytest.raises(InvalidArgument):
        publish_request(address, topic, messages)
    assert pull_now(client, subscription) == []


def test_publish__at_limits(address, client, topic, subscription):
    """A publish at the limits is accepted."""
    at_limits = PubsubMessage(attributes={f"{n:0256}": "v" * 1024 for n in range(100)})
    publish_request(address, topic, [at_limits])
    publish_request(address, topic, [PubsubMessage(data=b"x")] * 1_000)
    publish_request(address, topic, [PubsubMessage(data=bytes(9_999_900))])
    assert [len(pull_now(client, subscription)) for _ in range(4)] == [1_000, 1, 1, 0]


UNSUPPORTED = {
    "ordering": {"enable_message_ordering": True},
    "filter": {"filter": "attributes:x"},
    "dead letters": {"dead_letter_policy": {"dead_letter_topic": "t", "max_delivery_attempts": 5}},
    "retry": {"retry_policy": {"minimum_backoff": Duration(seconds=1)}},
    "push": {"push_config": PushConfig(push_endpoint="https://example.com")},
    "exactly once": {"enable_exactly_once_delivery": True},
    "retention": {"retain_acked_messages": True},
}


@pytest.mark.parametrize("fields", UNSUPPORTED.values(), ids=UNSUPPORTED.keys())
def test_create_subscription__unsupported_field(client, topic, fields):
    """A subscription with an unsupported field is refused, and the error names the field."""
    name = f"{PROJECT_NAME}/subscriptions/unknown"
    with pytest.raises(MethodNotImplemented, match=next(iter(fields))):
        client.create_subscription(Subscription(name=name, topic=topic, **fields))
    with pytest.raises(NotFound):
        client.get_subscription(subscription=name)


def test_calls__unsupported(address, client, topic, subscription):
    """Unsupported fields and methods are refused by name."""
    with publisher(address) as topics:
        with pytest.raises(MethodNotImplemented, match="schema_settings"):
            topics.create_topic(Topic(name=f"{topic}-2", schema_settings={"schema": "s"}))
        with pytest.raises(MethodNotImplemented, match="DetachSubscription"):
            topics.detach_subscription(request={"subscription": subscription})
    with pytest.raises(MethodNotImplemented, match="Seek"):
        client.seek(request={"subscription": subscription, "snapshot": "s"})
    with pytest.raises(MethodNotImplemented, match="ordering key"):
        publish_request(address, topic, [PubsubMessage(data=b"x", ordering_key="k")])


def test_calls__out_of_range(client, topic, subscription):
    """Numbers out of their range are refused."""
    calls = [
        lambda: client.create_subscription(name=f"{subscription}-2", topic=topic, ack_deadline_seconds=9),
        lambda: client.create_subscription(name=f"{subscription}-2", topic=topic, ack_deadline_seconds=601),
        lambda: client.modify_ack_deadline(subscription=subscription, ack_ids=["1-1-1"], ack_deadline_seconds=601),
        lambda: client.pull(subscription=subscription, max_messages=0),
        lambda: client.acknowledge(subscription=subscription, ack_ids=[]),
        lambda: client.acknowledge(subscription=subscription, ack_ids=["1-1-1"] * 100_000),
        lambda: next(iter(client.streaming_pull(iter([StreamingPullRequest(subscription=subscription)])))),
    ]
    for call in calls:
        with pytest.raises(InvalidArgument):
            call()


def test_list_topics__pages(address):
    """A list is returned in pages."""
    with publisher(address) as topics:
        names = sorted(topics.create_topic(name=f"{PROJECT_NAME}/topics/page-{n}").name for n in range(5))
        pages = [
            [found.name for found in page.topics]
            for page in topics.list_topics(request=ListTopicsRequest(project=PROJECT_NAME, page_size=2)).pages
        ]
    assert pages == [names[:2], names[2:4], names[4:]]


def publish_request(address: str, topic: str, messages: list[PubsubMessage]) -> None:
    """Send one publish request with exactly these messages, which the ordinary client would split or refuse itself."""
    with publisher(address) as topics:
        PublisherClient.publish(topics, request=PublishRequest(topic=topic, messages=messages), retry=None)
