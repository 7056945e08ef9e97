"""A broker whose clock a test advances, and a client, a topic and a subscription of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from google.cloud import pubsub_v1

from local.pubsub.broker import Broker
from tests.support.pubsub import FakeClock, make_subscription, make_topic, subscriber


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def address(clock: FakeClock) -> Iterator[str]:
    with Broker(clock=clock) as broker:
        yield broker.address


@pytest.fixture
def client(address: str) -> Iterator[pubsub_v1.SubscriberClient]:
    with subscriber(address) as client:
        yield client


@pytest.fixture
def topic(address: str) -> str:
    return make_topic(address)


@pytest.fixture
def subscription(address: str, topic: str) -> str:
    return make_subscription(address, topic, ack_deadline_seconds=10)
