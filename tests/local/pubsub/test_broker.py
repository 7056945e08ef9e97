"""The contract of Pub/Sub for ordinary clients, for the local broker and the official emulator."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from google.api_core.exceptions import AlreadyExists, DeadlineExceeded, InvalidArgument, NotFound
from google.cloud.pubsub_v1.subscriber.message import Message
from google.cloud.pubsub_v1.types import FlowControl

from local.pubsub.services import MAX_WAIT_SECONDS
from tests.support.clock import CLOCK, PATIENCE
from tests.support.pubsub import (
    PROJECT,
    make_subscription,
    publish,
    publisher,
    pull,
    pull_now,
)

pytestmark = pytest.mark.integration


@pytest.fixture(params=["broker_address", "emulator_address"], ids=["broker", "emulator"])
def address(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


@pytest.fixture
def now(request: pytest.FixtureRequest) -> Callable[[], datetime]:
    """The clock of the broker, or that of the emulator, which is the system's."""
    return CLOCK.now if request.node.callspec.id == "broker" else lambda: datetime.now(UTC)


@pytest.fixture
def subscription(address: str, topic: str) -> str:
    return make_subscription(address, topic)


def test_what_is_published_is_pulled_with_its_id_and_the_time_of_publishing(now, address, client, topic, subscription):
    before = now() - timedelta(milliseconds=1)
    ids = publish(address, topic, b"one", b"two", b"three")
    after = now()
    messages = [received.message for received in pull(client, subscription, 3)]
    assert {message.message_id: message.data for message in messages} == dict(zip(ids, [b"one", b"two", b"three"], strict=True))
    assert all(before <= message.publish_time <= after for message in messages)


def test_publish__unique_ids(address, client, topic, subscription):
    """Each of 2,500 messages has an id of its own."""
    ids = publish(address, topic, *[b"x"] * 2_500)
    assert len(set(ids)) == 2_500
    assert Counter(received.message.message_id for received in pull(client, subscription, 2_500)) == Counter(ids)


def test_publish__any_bytes_and_attributes(address, client, topic, subscription):
    """Any bytes and attributes are delivered unchanged."""
    data = bytes(range(256)) * 4
    publish(address, topic, data, event_type="café", empty="", long="v" * 1024)
    publish(address, topic, b"", only="attributes")
    messages = {received.message.data: dict(received.message.attributes) for received in pull(client, subscription, 2)}
    assert messages == {data: {"event_type": "café", "empty": "", "long": "v" * 1024}, b"": {"only": "attributes"}}


def test_publish__message_of_9_mb(address, client, topic, subscription):
    """A message of 9 MB is delivered unchanged."""
    data = bytes(range(250)) * 36_000
    publish(address, topic, data)
    [received] = pull(client, subscription, 1)
    assert received.message.data == data


def test_pull__max_messages(address, client, topic, subscription):
    """A pull returns at most max_messages."""
    publish(address, topic, b"1", b"2", b"3")
    assert len(pull_now(client, subscription, most=2)) == 2
    assert len(pull_now(client, subscription, most=2)) == 1


def test_pull__return_immediately(client, subscription):
    """A pull with return_immediately returns at once if there is no message."""
    start = time.monotonic()
    assert pull_now(client, subscription) == []
    assert time.monotonic() - start < MAX_WAIT_SECONDS / 2


def test_pull__no_message(client, subscription):
    """A pull that gets no message returns none before its client's deadline."""
    for timeout in (2, 10, 40):
        start = time.monotonic()
        # The answer leaves shortly before; on a slow machine it needs more time to arrive.
        with suppress(DeadlineExceeded):
            assert not client.pull(subscription=subscription, max_messages=1, timeout=timeout, retry=None).received_messages
            assert time.monotonic() - start > timeout / 4
            return
    pytest.fail("no answer before the client gave up")


def test_pull__waits_for_message(address, client, topic, subscription):
    """A pull that waits returns as soon as a message is published."""
    later = threading.Timer(0.3, publish, [address, topic, b"late"])
    start = time.monotonic()
    later.start()
    response = client.pull(subscription=subscription, max_messages=1000, timeout=PATIENCE)
    assert [received.message.data for received in response.received_messages] == [b"late"]
    assert 0.2 < time.monotonic() - start < MAX_WAIT_SECONDS / 2
    later.join()


def test_publish__several_subscriptions(address, client, topic, subscription):
    """Each subscription receives every message."""
    other = make_subscription(address, topic)
    ids = publish(address, topic, b"1", b"2")
    for name in (subscription, other):
        assert {received.message.message_id for received in pull(client, name, 2)} == set(ids)


def test_create_subscription__earlier_messages(address, client, topic):
    """A subscription does not receive messages from before its creation."""
    publish(address, topic, b"before")
    subscription = make_subscription(address, topic)
    publish(address, topic, b"after")
    assert [received.message.data for received in pull(client, subscription, 1)] == [b"after"]
    assert pull_now(client, subscription) == []


def test_pull__expired_lease(address, client, topic, subscription):
    """After its lease has expired, a message is delivered with a new ack id."""
    publish(address, topic, b"again", event_type="t")
    [first] = pull(client, subscription, 1)
    assert pull_now(client, subscription) == []
    client.modify_ack_deadline(subscription=subscription, ack_ids=[first.ack_id], ack_deadline_seconds=1)
    [second] = pull(client, subscription, 1)
    assert second.message == first.message
    assert second.message.publish_time == first.message.publish_time
    assert second.ack_id != first.ack_id


def test_acknowledge__ends_redelivery(address, client, topic, subscription):
    """An acknowledged message is not redelivered, and an extended lease delays redelivery."""
    publish(address, topic, b"acked", b"extended", b"left")
    ack_ids = {received.message.data: received.ack_id for received in pull(client, subscription, 3)}
    client.modify_ack_deadline(subscription=subscription, ack_ids=list(ack_ids.values()), ack_deadline_seconds=5)
    client.modify_ack_deadline(subscription=subscription, ack_ids=[ack_ids[b"extended"]], ack_deadline_seconds=60)
    client.acknowledge(subscription=subscription, ack_ids=[ack_ids[b"acked"]])
    assert [received.message.data for received in pull(client, subscription, 1)] == [b"left"]
    assert pull_now(client, subscription) == []


def test_modify_ack_deadline__nack(address, client, topic, subscription):
    """A nacked message is redelivered at once."""
    publish(address, topic, b"nacked")
    [first] = pull(client, subscription, 1)
    client.modify_ack_deadline(subscription=subscription, ack_ids=[first.ack_id], ack_deadline_seconds=0)
    start = time.monotonic()
    [second] = pull(client, subscription, 1)
    assert (second.message, second.ack_id != first.ack_id) == (first.message, True)
    assert time.monotonic() - start < 30, "not at once, but when the lease had ended"


def test_acknowledge__repeated(address, client, topic, subscription):
    """A repeated acknowledgement is accepted."""
    publish(address, topic, b"once")
    [received] = pull(client, subscription, 1)
    for _ in range(2):
        client.acknowledge(subscription=subscription, ack_ids=[received.ack_id])


def test_streaming_pull__nack(address, client, topic, subscription):
    """A streaming pull delivers every message once, and a nacked message twice."""
    ids = publish(address, topic, *[b"x"] * 300)
    seen: Counter[str] = Counter()
    finished = threading.Event()

    def take(message: Message) -> None:
        seen[message.message_id] += 1
        if message.message_id == ids[0] and seen[ids[0]] == 1:
            message.nack()
        else:
            message.ack()
        if seen.total() == len(ids) + 1:
            finished.set()

    future = client.subscribe(subscription, take, flow_control=FlowControl(max_messages=50))
    assert finished.wait(PATIENCE)
    future.cancel()
    future.result(timeout=PATIENCE)
    assert seen == Counter(ids) + Counter([ids[0]])
    assert pull_now(client, subscription) == []


def test_calls__missing_resource(address, client):
    """Calls for a missing topic or subscription raise NotFound."""
    with publisher(address) as topics:
        topic = f"projects/{PROJECT}/topics/missing"
        subscription = f"projects/{PROJECT}/subscriptions/missing"
        calls = [
            lambda: topics.publish(topic, b"x").result(timeout=PATIENCE),
            lambda: topics.get_topic(topic=topic),
            lambda: topics.delete_topic(topic=topic),
            lambda: client.create_subscription(name=subscription, topic=topic),
            lambda: client.get_subscription(subscription=subscription),
            lambda: client.delete_subscription(subscription=subscription),
            lambda: client.pull(subscription=subscription, max_messages=1),
            lambda: client.subscribe(subscription, lambda message: message.ack()).result(timeout=PATIENCE),
        ]
        for call in calls:
            with pytest.raises(NotFound):
                call()


def test_create__existing_resource(address, client, topic, subscription):
    """Creating an existing topic or subscription raises AlreadyExists."""
    with publisher(address) as topics, pytest.raises(AlreadyExists):
        topics.create_topic(name=topic)
    with pytest.raises(AlreadyExists):
        client.create_subscription(name=subscription, topic=topic)


def test_list__until_deleted(address, client, topic, subscription):
    """Topics and subscriptions are listed until they are deleted."""
    project = f"projects/{PROJECT}"
    with publisher(address) as topics:
        assert topic in {found.name for found in topics.list_topics(project=project)}
        assert list(topics.list_topic_subscriptions(topic=topic)) == [subscription]
        assert subscription in {found.name for found in client.list_subscriptions(project=project)}
        topics.delete_topic(topic=topic)
        assert topic not in {found.name for found in topics.list_topics(project=project)}
    assert client.get_subscription(subscription=subscription).topic == "_deleted-topic_"
    client.delete_subscription(subscription=subscription)
    assert subscription not in {found.name for found in client.list_subscriptions(project=project)}


def test_create_subscription__default_deadline(client, topic):
    """The default ack deadline is 10 s."""
    created = client.create_subscription(name=f"{topic.replace('/topics/', '/subscriptions/')}", topic=topic)
    assert created.ack_deadline_seconds == 10


@pytest.mark.parametrize("name", ["topics/short", f"projects/{PROJECT}/topics/ab", f"projects/{PROJECT}/topics/1abc"])
def test_create_topic__invalid_name(address, name):
    """An invalid name is refused."""
    with publisher(address) as topics, pytest.raises(InvalidArgument):
        topics.create_topic(name=name)


def test_acknowledge__invalid_ack_id(client, subscription):
    """An ack id that no broker can have created is refused."""
    with pytest.raises(InvalidArgument):
        client.acknowledge(subscription=subscription, ack_ids=["garbage"])
