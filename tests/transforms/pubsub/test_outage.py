"""Pub/Sub becomes unreachable in mid-run, briefly or permanently: the real client, and a broker that is stopped."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import pytest
from google.cloud import pubsub_v1

from local.pubsub.broker import Broker
from tests.support.clock import BEGIN, CLOCK, PATIENCE
from tests.support.pubsub import answer_soon, free_port, publish, publisher, pull_now, subscriber
from transforms import report as reporting
from transforms.pubsub import leases as leases_module
from transforms.pubsub import retry as pubsub
from transforms.pubsub.leases import Leases, batches
from transforms.pubsub.retry import PubSubError
from transforms.report import Report

pytestmark = pytest.mark.integration

TOPIC = "projects/test-project/topics/events"
SUBSCRIPTION = "projects/test-project/subscriptions/events"
LATER = BEGIN + timedelta(days=1)


class Service:
    """A broker at a fixed address that can be stopped and started. It loses its messages when stopped."""

    def __init__(self) -> None:
        self._port = free_port()
        self.address = f"127.0.0.1:{self._port}"
        self._stack = ExitStack()

    def start(self) -> None:
        self._stack.enter_context(Broker(port=self._port, clock=CLOCK.seconds, topics=[TOPIC]))

    def stop(self) -> None:
        self._stack.close()


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    answer_soon(monkeypatch)
    service = Service()
    service.start()
    yield service
    service.stop()


@pytest.fixture
def client(service: Service) -> Iterator[pubsub_v1.SubscriberClient]:
    with subscriber(service.address) as client:
        yield client


def payloads(batch: list[Any]) -> list[bytes]:
    return [received.message.data for received in batch]


def ids(batch: list[Any]) -> list[str]:
    return [received.message.message_id for received in batch]


def test_batches__pubsub_is_back_after_an_outage(
    service: Service, client: pubsub_v1.SubscriberClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run continues when Pub/Sub is reachable again."""
    monkeypatch.setattr(leases_module, "PULL_MESSAGES", 1)
    # After the service has come back a pull waits for the message that is published then.
    monkeypatch.setattr("local.pubsub.services.MAX_WAIT_SECONDS", PATIENCE)
    monkeypatch.setattr(leases_module, "PULL_SECONDS", 10.0)
    publish(service.address, TOPIC, b"before", b"before")
    with Leases(SUBSCRIPTION, client) as leases:
        reading = batches(leases, LATER)
        first = next(reading)
        while leases.held < 2:  # so that no pull is in flight, which the service would answer before it stops
            time.sleep(0.01)
        service.stop()

        def start_and_publish() -> None:
            service.start()
            publish(service.address, TOPIC, b"after")

        restart = threading.Timer(2, start_and_publish)
        restart.start()
        second, third = next(reading), next(reading)
        assert payloads(first + second + third) == [b"before", b"before", b"after"]
        restart.join()
        assert list(reading) == []
        leases.acknowledge(ids(first + second + third))
    assert pull_now(client, SUBSCRIPTION) == []


def test_acknowledge__waits_for_the_end_of_an_outage(service: Service, client: pubsub_v1.SubscriberClient) -> None:
    """An acknowledgement waits until Pub/Sub is reachable again."""
    publish(service.address, TOPIC, b"before")
    with Leases(SUBSCRIPTION, client) as leases:
        batch = next(batches(leases, LATER))
        service.stop()
        restart = threading.Timer(2, service.start)
        restart.start()
        leases.acknowledge(ids(batch))
        assert leases.acknowledged == 1
        restart.join()


def test_leases__outage_without_end(
    service: Service, client: pubsub_v1.SubscriberClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If Pub/Sub stays unreachable, the run ends with one error that names the first failure; later ones are logged."""
    monkeypatch.setattr(pubsub, "RETRY_SECONDS", 2.0)
    monkeypatch.setattr(leases_module, "EXTEND_EVERY_SECONDS", 0.3)
    publish(service.address, TOPIC, b"before")

    def run() -> None:
        with Leases(SUBSCRIPTION, client) as leases:
            reading = batches(leases, LATER)
            next(reading)
            service.stop()
            extender = leases._extender
            try:
                next(reading)
            finally:
                assert extender.is_alive(), "the thread that extends the leases died"

    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(PubSubError, match=f"^{SUBSCRIPTION}: Pub/Sub has been unreachable for 2 s"),
    ):
        run()
    assert "could not extend 1 leases" in caplog.text
    assert "could not release messages" in caplog.text


def test_report__outage_is_one_clear_error(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """A report that can't be published ends in one clear error."""
    monkeypatch.setattr(reporting, "REPORT_SECONDS", 1.0)
    step = Report(TOPIC, lambda: publisher(service.address))._fn
    step.setup()
    service.stop()
    step.start_bundle()
    step._futures.append(step._client.publish(TOPIC, b"a report"))
    with pytest.raises(PubSubError, match=f"^{TOPIC}: Pub/Sub accepted no report for 1 s"):
        step.finish_bundle()
    step.teardown()


def test_report__deleted_topic_is_one_clear_error(service: Service) -> None:
    """A report to a deleted topic ends in one clear error."""
    step = Report(TOPIC, lambda: publisher(service.address))._fn
    step.setup()
    with publisher(service.address) as topics:
        topics.delete_topic(topic=TOPIC)
    step.start_bundle()
    step._futures.append(step._client.publish(TOPIC, b"a report"))
    with pytest.raises(PubSubError, match=f"^{TOPIC}: Pub/Sub refused a report: .*does not exist"):
        step.finish_bundle()
    step.teardown()
