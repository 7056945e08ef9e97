"""Pub/Sub goes away in mid-run, and comes back or does not: the real client, and a broker that is stopped and started."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.cloud import pubsub_v1

from local.pubsub.broker import Broker
from tests.support.pubsub import free_port, publish, publisher, pull, subscriber
from transforms import report as reporting
from transforms.pubsub import leases as leases_module
from transforms.pubsub import retry as pubsub
from transforms.pubsub.leases import Leases, batches
from transforms.pubsub.retry import PubSubError
from transforms.report import Report

pytestmark = pytest.mark.slow

TOPIC = "projects/test-project/topics/events"
SUBSCRIPTION = "projects/test-project/subscriptions/events"
LATER = datetime.now(UTC) + timedelta(days=1)


class Service:
    """A broker at one address that goes away and comes back, with what was in it forgotten."""

    def __init__(self) -> None:
        self._port = free_port()
        self.address = f"127.0.0.1:{self._port}"
        self._stack = ExitStack()

    def come(self) -> None:
        self._stack.enter_context(Broker(port=self._port, topics=[TOPIC]))

    def go(self) -> None:
        self._stack.close()


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setattr(leases_module, "PULL_SECONDS", 0.5)
    monkeypatch.setattr(leases_module, "SLOW_PULL_SECONDS", 1.0)
    service = Service()
    service.come()
    yield service
    service.go()


@pytest.fixture
def client(service: Service) -> Iterator[pubsub_v1.SubscriberClient]:
    with subscriber(service.address) as client:
        yield client


def payloads(batch: list[Any]) -> list[bytes]:
    return [received.message.data for received in batch]


def ids(batch: list[Any]) -> list[str]:
    return [received.message.message_id for received in batch]


def test_a_run_goes_on_when_pubsub_comes_back(
    service: Service, client: pubsub_v1.SubscriberClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases_module, "PULL_MESSAGES", 1)
    # What is published when the service has come back may take its time to arrive; the run is not to end in vain before.
    monkeypatch.setattr(leases_module, "PULL_SECONDS", 10.0)
    publish(service.address, TOPIC, b"before", b"before")
    with Leases(SUBSCRIPTION, client) as leases:
        reading = batches(leases, LATER)
        first = next(reading)
        while leases.held < 2:  # so that no pull is under way, which the service would answer before it goes
            time.sleep(0.01)
        service.go()

        def back() -> None:
            service.come()
            publish(service.address, TOPIC, b"after")

        returning = threading.Timer(2, back)
        returning.start()
        second, third = next(reading), next(reading)
        assert payloads(first + second + third) == [b"before", b"before", b"after"]
        returning.join()
        assert list(reading) == []
        leases.acknowledge(ids(first + second + third))
    assert pull(client, SUBSCRIPTION, 1, seconds=0.5) == []


def test_an_acknowledgement_waits_for_pubsub_to_come_back(service: Service, client: pubsub_v1.SubscriberClient) -> None:
    publish(service.address, TOPIC, b"before")
    with Leases(SUBSCRIPTION, client) as leases:
        batch = next(batches(leases, LATER))
        service.go()
        returning = threading.Timer(2, service.come)
        returning.start()
        leases.acknowledge(ids(batch))
        assert leases.acknowledged == 1
        returning.join()


def test_when_pubsub_stays_away_the_run_ends_with_one_clear_error_and_the_first_one_is_told(
    service: Service, client: pubsub_v1.SubscriberClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pubsub, "AWAY_SECONDS", 2.0)
    monkeypatch.setattr(leases_module, "EXTEND_EVERY_SECONDS", 0.3)
    publish(service.address, TOPIC, b"before")

    def run() -> None:
        with Leases(SUBSCRIPTION, client) as leases:
            reading = batches(leases, LATER)
            next(reading)
            service.go()
            extender = leases._extender
            try:
                next(reading)
            finally:
                assert extender.is_alive(), "what extends the leases died"

    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(PubSubError, match=f"^{SUBSCRIPTION}: Pub/Sub has been unreachable for 2 s"),
    ):
        run()
    assert "could not extend 1 leases" in caplog.text
    assert "could not release messages" in caplog.text


def test_a_report_that_nobody_takes_is_one_clear_error(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "REPORT_SECONDS", 1.0)
    step = Report(TOPIC, lambda: publisher(service.address))._fn
    step.setup()
    service.go()
    step.start_bundle()
    step._futures.append(step._client.publish(TOPIC, b"a report"))
    with pytest.raises(PubSubError, match=f"^{TOPIC}: Pub/Sub accepted no report for 1 s"):
        step.finish_bundle()
    step.teardown()


def test_a_report_to_a_topic_that_was_deleted_is_one_clear_error(service: Service) -> None:
    step = Report(TOPIC, lambda: publisher(service.address))._fn
    step.setup()
    with publisher(service.address) as topics:
        topics.delete_topic(topic=TOPIC)
    step.start_bundle()
    step._futures.append(step._client.publish(TOPIC, b"a report"))
    with pytest.raises(PubSubError, match=f"^{TOPIC}: Pub/Sub refused a report: .*does not exist"):
        step.finish_bundle()
    step.teardown()
