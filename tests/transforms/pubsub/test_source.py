"""The source as a stream: it continues without messages, its watermark follows the clock, and it ends when stopped."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from apache_beam.io.unbounded_source import UnboundedReader
from apache_beam.utils.timestamp import MAX_TIMESTAMP, Timestamp
from google.api_core.exceptions import PermissionDenied, ServiceUnavailable
from google.cloud import pubsub_v1

from tests.support.clock import BEGIN, CLOCK, PATIENCE
from tests.support.pubsub import answer_soon, make_subscription, make_topic, publish, pull_now, subscriber
from transforms.pubsub import leases as leases_module
from transforms.pubsub import source
from transforms.pubsub.leases import Leases
from transforms.pubsub.retry import PubSubError
from transforms.pubsub.source import WATERMARK_DELAY, PubSubSource

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def short_pulls(monkeypatch: pytest.MonkeyPatch) -> None:
    answer_soon(monkeypatch)


@pytest.fixture
def topic(broker_address: str) -> str:
    return make_topic(broker_address)


@pytest.fixture
def leases(broker_address: str, topic: str) -> Iterator[Leases]:
    with subscriber(broker_address) as client, Leases(make_subscription(broker_address, topic), client) as leases:
        yield leases


def reader_of(leases: Leases) -> UnboundedReader:
    return PubSubSource(leases.subscription, None).create_reader(None, None)


def take(reader: UnboundedReader, count: int, seconds: float = PATIENCE) -> list[bytes]:
    """Return the next messages, polling as a runner does."""
    payloads: list[bytes] = []
    deadline = time.monotonic() + seconds
    while len(payloads) < count and time.monotonic() < deadline:
        if reader.advance():
            payloads.append(reader.get_current().data)
    return payloads


def moment(when: datetime) -> Timestamp:
    return Timestamp.of(when.timestamp())


def test_source__runs_until_stopped(broker_address: str, topic: str, leases: Leases) -> None:
    """A stream continues while there are no messages, until it is stopped."""
    reader = reader_of(leases)
    assert not reader.start()
    publish(broker_address, topic, b"a", b"b")
    assert sorted(take(reader, 2)) == [b"a", b"b"]
    assert not reader.advance()
    publish(broker_address, topic, b"c")
    assert take(reader, 1) == [b"c"]
    assert reader.get_watermark() < MAX_TIMESTAMP
    leases.stop()
    assert not reader.advance()
    assert reader.get_watermark() == MAX_TIMESTAMP


def test_watermark__follows_the_clock(broker_address: str, topic: str, leases: Leases, monkeypatch: pytest.MonkeyPatch) -> None:
    """The watermark follows the clock while there are no messages, and never passes a message."""
    now = CLOCK.now()
    reader = reader_of(leases)
    for later in (timedelta(), timedelta(minutes=5)):
        monkeypatch.setattr(source, "utc_now", lambda later=later: now + later)
        assert not reader.advance()
        assert reader.get_watermark() == moment(now + later - WATERMARK_DELAY)

    # The clock runs ahead, or messages have waited: the messages' own timestamps count.
    fresh = reader_again(leases)
    monkeypatch.setattr(source, "utc_now", lambda: now + timedelta(hours=2))
    publish(broker_address, topic, b"waited")
    assert take(fresh, 1) == [b"waited"]
    assert fresh.get_watermark() == fresh.get_current_timestamp()
    assert moment(now) <= fresh.get_watermark() < moment(now + timedelta(minutes=1))


def reader_again(leases: Leases) -> UnboundedReader:
    leases.reader = None
    return reader_of(leases)


def test_create_reader__finds_the_closed_reader(broker_address: str, topic: str, leases: Leases) -> None:
    """After Beam has closed a reader, the next one continues with the messages that it holds."""
    publish(broker_address, topic, b"a", b"b", b"c")
    first = reader_of(leases)
    taken = take(first, 1)
    first.close()
    again = reader_of(leases)
    assert again.start()
    taken.append(again.get_current().data)
    assert sorted(taken + take(again, 1)) == [b"a", b"b", b"c"]


def test_source__holds_a_bounded_number(
    broker_address: str, topic: str, leases: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more messages are pulled than may be held."""
    monkeypatch.setattr(leases_module, "MOST_HELD", 2)
    monkeypatch.setattr(leases_module, "PULL_MESSAGES", 1)
    publish(broker_address, topic, b"a", b"b", b"c")
    reader = reader_of(leases)
    taken = take(reader, 2)
    assert not any(reader.advance() for _ in range(5))
    assert leases.held == 2
    leases.acknowledge(list(leases._held))
    assert sorted(taken + take(reader, 1)) == [b"a", b"b", b"c"]


class Failing:
    """A client whose first pull fails."""

    def __init__(self, client: pubsub_v1.SubscriberClient, error: Exception) -> None:
        self._client = client
        self._errors = [error]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def pull(self, **arguments: Any) -> Any:
        if self._errors:
            raise self._errors.pop()
        return self._client.pull(**arguments)


def test_advance__outage_and_refusal(broker_address: str, topic: str, leases: Leases) -> None:
    """A stream survives an outage of Pub/Sub, but ends if Pub/Sub refuses."""
    client = leases.client
    leases.client = Failing(client, ServiceUnavailable("gone"))
    publish(broker_address, topic, b"a")
    reader = reader_of(leases)
    assert take(reader, 1) == [b"a"]
    leases.client = Failing(client, PermissionDenied("no"))
    with pytest.raises(PubSubError, match="Pub/Sub refused a request: no"):
        reader.advance()


@pytest.mark.parametrize("until", [None, BEGIN + timedelta(days=1)])
def test_start__retry_after_a_failed_pull(broker_address: str, topic: str, leases: Leases, until: datetime | None) -> None:
    """A failed pull does not count as the end of the source if the runner retries."""
    publish(broker_address, topic, b"a")
    leases.client = Failing(leases.client, PermissionDenied("no"))
    reader = PubSubSource(leases.subscription, until).create_reader(None, None)
    with pytest.raises(PubSubError):
        reader.start()
    assert reader.start()
    assert reader.get_current().data == b"a"


def test_stop__releases_at_once(broker_address: str, topic: str) -> None:
    """A stopped stream releases the messages that it holds at once."""
    with subscriber(broker_address) as client:
        with Leases(make_subscription(broker_address, topic), client) as leases:
            publish(broker_address, topic, b"a", b"b")
            reader = reader_of(leases)
            taken = take(reader, 1)
            leases.stop()
            leases.acknowledge([reader.get_current().message_id])
        released = [received.message.data for received in pull_now(client, leases.subscription)]
        assert sorted(taken + released) == [b"a", b"b"]
