"""What Pub/Sub promises to its ordinary clients, held against the project's broker and the official emulator alike."""

from __future__ import annotations

import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from google.api_core.exceptions import AlreadyExists, InvalidArgument, NotFound
from google.cloud.pubsub_v1.subscriber.message import Message
from google.cloud.pubsub_v1.types import FlowControl

from tests.support.pubsub import (
    PROJECT,
    make_subscription,
    publish,
    publisher,
    pull,
    pull_now,
)

pytestmark = pytest.mark.slow


@pytest.fixture(params=["broker_address", pytest.param("emulator_address", marks=pytest.mark.slow)], ids=["broker", "emulator"])
def address(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


@pytest.fixture
def subscription(address: str, topic: str) -> str:
    return make_subscription(address, topic)


def test_what_is_published_is_pulled_with_its_id_and_the_time_of_publishing(address, client, topic, subscription):
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    ids = publish(address, topic, b"one", b"two", b"three")
    after = datetime.now(UTC)
    messages = [received.message for received in pull(client, subscription, 3)]
    assert {message.message_id: message.data for message in messages} == dict(zip(ids, [b"one", b"two", b"three"], strict=True))
    assert all(before <= message.publish_time <= after for message in messages)


def test_many_messages_have_as_many_ids(address, client, topic, subscription):
    ids = publish(address, topic, *[b"x"] * 2_500)
    assert len(set(ids)) == 2_500
    assert Counter(received.message.message_id for received in pull(client, subscription, 2_500)) == Counter(ids)


def test_any_bytes_and_attributes_come_back_whole(address, client, topic, subscription):
    data = bytes(range(256)) * 4
    publish(address, topic, data, event_type="café", empty="", long="v" * 1024)
    publish(address, topic, b"", only="attributes")
    messages = {received.message.data: dict(received.message.attributes) for received in pull(client, subscription, 2)}
    assert messages == {data: {"event_type": "café", "empty": "", "long": "v" * 1024}, b"": {"only": "attributes"}}


def test_a_message_of_9_MB_comes_back_whole(address, client, topic, subscription):
    data = bytes(range(250)) * 36_000
    publish(address, topic, data)
    [received] = pull(client, subscription, 1)
    assert received.message.data == data


def test_a_pull_gives_no_more_than_it_was_asked_for(address, client, topic, subscription):
    publish(address, topic, b"1", b"2", b"3")
    assert len(pull_now(client, subscription, most=2)) == 2
    assert len(pull_now(client, subscription, most=2)) == 1


def test_a_pull_that_does_not_wait_returns_at_once_when_nothing_is_there(client, subscription):
    start = time.monotonic()
    assert pull_now(client, subscription) == []
    assert time.monotonic() - start < 1


def test_a_pull_that_waits_in_vain_returns_nothing_before_its_client_gives_up(client, subscription):
    start = time.monotonic()
    assert not client.pull(subscription=subscription, max_messages=1, timeout=2).received_messages
    assert 0.5 < time.monotonic() - start < 2


def test_a_pull_that_waits_returns_as_soon_as_a_message_is_there(address, client, topic, subscription):
    later = threading.Timer(0.3, publish, [address, topic, b"late"])
    later.start()
    start = time.monotonic()
    response = client.pull(subscription=subscription, max_messages=1000, timeout=20)
    assert [received.message.data for received in response.received_messages] == [b"late"]
    assert 0.2 < time.monotonic() - start < 5
    later.join()


def test_each_subscription_gets_every_message(address, client, topic, subscription):
    other = make_subscription(address, topic)
    ids = publish(address, topic, b"1", b"2")
    for name in (subscription, other):
        assert {received.message.message_id for received in pull(client, name, 2)} == set(ids)


def test_nothing_from_before_a_subscription_reaches_it(address, client, topic):
    publish(address, topic, b"before")
    subscription = make_subscription(address, topic)
    publish(address, topic, b"after")
    assert [received.message.data for received in pull(client, subscription, 2, seconds=1)] == [b"after"]


def test_an_ended_lease_brings_the_same_message_under_another_ack_id(address, client, topic, subscription):
    publish(address, topic, b"again", event_type="t")
    [first] = pull(client, subscription, 1)
    assert pull_now(client, subscription) == []
    client.modify_ack_deadline(subscription=subscription, ack_ids=[first.ack_id], ack_deadline_seconds=1)
    [second] = pull(client, subscription, 1)
    assert second.message == first.message
    assert second.message.publish_time == first.message.publish_time
    assert second.ack_id != first.ack_id


def test_an_ack_ends_redelivery_and_an_extension_delays_it(address, client, topic, subscription):
    publish(address, topic, b"acked", b"extended", b"left")
    ack_ids = {received.message.data: received.ack_id for received in pull(client, subscription, 3)}
    client.modify_ack_deadline(subscription=subscription, ack_ids=list(ack_ids.values()), ack_deadline_seconds=1)
    client.modify_ack_deadline(subscription=subscription, ack_ids=[ack_ids[b"extended"]], ack_deadline_seconds=60)
    client.acknowledge(subscription=subscription, ack_ids=[ack_ids[b"acked"]])
    assert [received.message.data for received in pull(client, subscription, 3, seconds=2.5)] == [b"left"]


def test_a_nack_brings_the_message_at_once(address, client, topic, subscription):
    publish(address, topic, b"nacked")
    [first] = pull(client, subscription, 1)
    client.modify_ack_deadline(subscription=subscription, ack_ids=[first.ack_id], ack_deadline_seconds=0)
    start = time.monotonic()
    [second] = pull(client, subscription, 1)
    assert (second.message, second.ack_id != first.ack_id) == (first.message, True)
    assert time.monotonic() - start < 2


def test_to_ack_twice_does_no_harm(address, client, topic, subscription):
    publish(address, topic, b"once")
    [received] = pull(client, subscription, 1)
    for _ in range(2):
        client.acknowledge(subscription=subscription, ack_ids=[received.ack_id])


def test_a_streaming_pull_gives_everything_and_brings_back_what_it_nacks(address, client, topic, subscription):
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
    assert finished.wait(10)
    future.cancel()
    future.result(timeout=10)
    assert seen == Counter(ids) + Counter([ids[0]])
    assert pull_now(client, subscription) == []


def test_what_is_not_there_is_not_found(address, client):
    with publisher(address) as topics:
        topic = f"projects/{PROJECT}/topics/missing"
        subscription = f"projects/{PROJECT}/subscriptions/missing"
        calls = [
            lambda: topics.publish(topic, b"x").result(timeout=10),
            lambda: topics.get_topic(topic=topic),
            lambda: topics.delete_topic(topic=topic),
            lambda: client.create_subscription(name=subscription, topic=topic),
            lambda: client.get_subscription(subscription=subscription),
            lambda: client.delete_subscription(subscription=subscription),
            lambda: client.pull(subscription=subscription, max_messages=1),
            lambda: client.subscribe(subscription, lambda message: message.ack()).result(timeout=10),
        ]
        for call in calls:
            with pytest.raises(NotFound):
                call()


def test_what_is_there_already_is_not_made_again(address, client, topic, subscription):
    with publisher(address) as topics, pytest.raises(AlreadyExists):
        topics.create_topic(name=topic)
    with pytest.raises(AlreadyExists):
        client.create_subscription(name=subscription, topic=topic)


def test_topics_and_subscriptions_are_listed_until_they_are_deleted(address, client, topic, subscription):
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


def test_a_subscription_without_a_deadline_has_ten_seconds(client, topic):
    made = client.create_subscription(name=f"{topic.replace('/topics/', '/subscriptions/')}", topic=topic)
    assert made.ack_deadline_seconds == 10


@pytest.mark.parametrize("name", ["topics/short", f"projects/{PROJECT}/topics/ab", f"projects/{PROJECT}/topics/1abc"])
def test_a_bad_name_is_refused(address, name):
    with publisher(address) as topics, pytest.raises(InvalidArgument):
        topics.create_topic(name=name)


def test_an_ack_id_that_nobody_made_is_refused(client, subscription):
    with pytest.raises(InvalidArgument):
        client.acknowledge(subscription=subscription, ack_ids=["garbage"])
