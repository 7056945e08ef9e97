"""An ack follows durability: what is held, used, acknowledged and given back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from google.cloud import pubsub_v1

from tests.support.pubsub import make_subscription, make_topic, publish, pull, subscriber
from transforms import pubsub
from transforms.pubsub import Leases, PubSubError, batches, check_subscription

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pubsub, "PULL_SECONDS", 0.3)


@pytest.fixture
def client(broker_address: str) -> pubsub_v1.SubscriberClient:
    return subscriber(broker_address)


def later() -> datetime:
    return datetime.now(UTC) + timedelta(minutes=1)


def subscription_with(address: str, *payloads: bytes, seconds: int = 60) -> str:
    topic = make_topic(address)
    subscription = make_subscription(address, topic, seconds)
    publish(address, topic, *payloads)
    return subscription


def left(client: pubsub_v1.SubscriberClient, subscription: str) -> list[bytes]:
    return sorted(received.message.data for received in pull(client, subscription, 10, seconds=0.5))


def test_what_was_used_and_acknowledged_does_not_come_again(broker_address: str, client: pubsub_v1.SubscriberClient) -> None:
    subscription = subscription_with(broker_address, b"a", b"b")
    with Leases(subscription, client) as leases:
        for batch in batches(leases, later()):
            for received in batch:
                leases.use(received.ack_id)
        assert leases.acknowledge() == 2
    assert left(client, subscription) == []


def test_a_run_that_fails_gives_everything_back_at_once(broker_address: str, client: pubsub_v1.SubscriberClient) -> None:
    subscription = subscription_with(broker_address, b"a", b"b")

    def fail() -> None:
        with Leases(subscription, client) as leases:
            for batch in batches(leases, later()):
                for received in batch:
                    leases.use(received.ack_id)
            raise RuntimeError("the store is down")

    with pytest.raises(RuntimeError, match="store is down"):
        fail()
    assert left(client, subscription) == [b"a", b"b"]


def test_what_was_held_and_never_used_is_not_acknowledged(broker_address: str, client: pubsub_v1.SubscriberClient) -> None:
    subscription = subscription_with(broker_address, b"a", b"b", b"c")
    with Leases(subscription, client) as leases:
        [batch] = batches(leases, later())
        leases.use(batch[0].ack_id)
        used = batch[0].message.data
        assert leases.acknowledge() == 1
    assert left(client, subscription) == sorted({b"a", b"b", b"c"} - {used})


def test_leases_are_extended_while_the_run_lasts(
    broker_address: str, client: pubsub_v1.SubscriberClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pubsub, "LEASE_SECONDS", 2)
    monkeypatch.setattr(pubsub, "EXTEND_EVERY_SECONDS", 0.5)
    subscription = subscription_with(broker_address, b"a", seconds=10)
    with Leases(subscription, client) as leases:
        assert len(list(batches(leases, later()))) == 1
        # Longer than a lease: without the extension the message would be there again.
        assert pull(client, subscription, 1, seconds=3.5) == []


def test_what_was_published_after_the_run_began_is_left_for_the_next(
    broker_address: str, client: pubsub_v1.SubscriberClient
) -> None:
    topic = make_topic(broker_address)
    subscription = make_subscription(broker_address, topic)
    publish(broker_address, topic, b"before")
    began = datetime.now(UTC)
    publish(broker_address, topic, b"after")
    with Leases(subscription, client) as leases:
        assert [[received.message.data for received in batch] for batch in batches(leases, began)] == [[b"before"]]
    assert left(client, subscription) == [b"after", b"before"]


def test_a_subscription_that_is_not_there_is_told_in_one_line(client: pubsub_v1.SubscriberClient) -> None:
    name = "projects/test-project/subscriptions/none-such"
    with pytest.raises(PubSubError, match=f"^{name} does not exist. Create it, or correct the name.$"):
        check_subscription(client, name)
