"""Leases: messages are leased, assigned to packs, acknowledged after durability, or released; and messages of errors."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from google.api_core.exceptions import (
    Aborted,
    DeadlineExceeded,
    GoogleAPICallError,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    RetryError,
    ServiceUnavailable,
)
from google.api_core.retry import retry_base, retry_unary
from google.cloud import pubsub_v1

from tests.support.clock import CLOCK, eventually
from tests.support.pubsub import PULL_SECONDS, answer_soon, make_subscription, make_topic, publish, pull_now, subscriber
from transforms.pubsub import leases as leases_module
from transforms.pubsub.leases import LEASE_SECONDS, SLOW_PULL_SECONDS, Leases, batches, leases_for
from transforms.pubsub.retry import PubSubError, check_subscription, with_retry

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def short_pulls(monkeypatch: pytest.MonkeyPatch) -> None:
    answer_soon(monkeypatch)


@pytest.fixture
def client(broker_address: str) -> pubsub_v1.SubscriberClient:
    return subscriber(broker_address)


def later() -> datetime:
    return CLOCK.now() + timedelta(minutes=1)


def subscription_with(address: str, *payloads: bytes, seconds: int = 60) -> str:
    topic = make_topic(address)
    subscription = make_subscription(address, topic, seconds)
    publish(address, topic, *payloads)
    return subscription


def remaining(client: pubsub_v1.SubscriberClient, subscription: str) -> list[bytes]:
    """Return the sorted payloads that the subscription still delivers, at most ten."""
    return sorted(received.message.data for received in pull_now(client, subscription, most=10))


def pull_all(leases: Leases) -> dict[str, bytes]:
    """Pull all messages and return their payloads by message id."""
    return {received.message.message_id: received.message.data for batch in batches(leases, later()) for received in batch}


def test_acknowledge__is_final(broker_address: str, client: pubsub_v1.SubscriberClient) -> None:
    """Acknowledged messages are not delivered again."""
    subscription = subscription_with(broker_address, b"a", b"b")
    with Leases(subscription, client) as leases:
        leases.acknowledge(pull_all(leases))
        assert (leases.acknowledged, leases.held) == (2, 0)
    assert remaining(client, subscription) == []


def test_leases__failed_run_releases_at_once(broker_address: str, client: pubsub_v1.SubscriberClient) -> None:
    """A run that fails releases unacknowledged messages at once."""
    subscription = subscription_with(broker_address, b"a", b"b", b"c")

    def fail() -> None:
        with Leases(subscription, client) as leases:
            [done] = [message_id for message_id, data in pull_all(leases).items() if data == b"b"]
            leases.acknowledge([done])
            raise RuntimeError("the store is down")

    with pytest.raises(RuntimeError, match="store is down"):
        fail()
    assert remaining(client, subscription) == [b"a", b"c"]


def test_ack_packs__others_are_redelivered(broker_address: str, client: pubsub_v1.SubscriberClient) -> None:
    """The messages of an acknowledged pack are acknowledged once; those of other packs are redelivered."""
    subscription = subscription_with(broker_address, b"a", b"b", b"c")
    with Leases(subscription, client) as leases:
        by_payload = {data: message_id for message_id, data in pull_all(leases).items()}
        leases.assign_pack("first", [by_payload[b"a"], by_payload[b"b"]])
        leases.assign_pack("second", [by_payload[b"c"]])
        assert (leases.acknowledged, leases.held) == (0, 3)
        leases.ack_packs(["first"])
        leases.ack_packs(["first"])
        assert (leases.acknowledged, leases.held) == (2, 1)
    assert remaining(client, subscription) == [b"c"]


def test_ack_packs__pack_of_another_process(broker_address: str, client: pubsub_v1.SubscriberClient) -> None:
    """Acknowledging a pack of another process does nothing."""
    subscription = subscription_with(broker_address, b"a")
    with Leases(subscription, client) as leases:
        leases.assign_pack("mine", list(pull_all(leases)))
        leases.ack_packs(["another's"])
        leases.ack_packs([])
        assert (leases.acknowledged, leases.held) == (0, 1)
    assert remaining(client, subscription) == [b"a"]


def test_ack_packs__redelivered_message(broker_address: str, client: pubsub_v1.SubscriberClient) -> None:
    """A message that was redelivered is acknowledged by its newest lease."""
    subscription = subscription_with(broker_address, b"a")
    with Leases(subscription, client) as leases:
        [first] = pull_all(leases)
        leases.assign_pack("first", [first])
        client.modify_ack_deadline(subscription=subscription, ack_ids=[leases._held[first]], ack_deadline_seconds=0)
        assert list(pull_all(leases)) == [first]
        leases.assign_pack("second", [first])
        leases.ack_packs(["first"])
        leases.ack_packs(["second"])
        assert leases.acknowledged == 1
    assert remaining(client, subscription) == []


def test_leases_for__while_the_block_lasts(client: pubsub_v1.SubscriberClient) -> None:
    """Steps of the process find the leases by subscription while the block lasts."""
    with Leases("projects/p/subscriptions/own", client) as leases:
        assert leases_for("projects/p/subscriptions/own") is leases
        assert leases_for("projects/p/subscriptions/another") is None
    assert leases_for("projects/p/subscriptions/own") is None


def test_leases__are_extended(broker_address: str, client: pubsub_v1.SubscriberClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases are extended while the run lasts."""
    monkeypatch.setattr(leases_module, "EXTEND_EVERY_SECONDS", 0.1)
    extended: list[int] = []
    modify = client.modify_ack_deadline

    def noted(**request: Any) -> None:
        modify(**request)
        extended.append(request["ack_deadline_seconds"])

    subscription = subscription_with(broker_address, b"a", seconds=10)
    with Leases(subscription, client) as leases:
        assert len(list(batches(leases, later()))) == 1
        for _ in range(2):
            CLOCK.advance(LEASE_SECONDS - 5)
            extended.clear()
            monkeypatch.setattr(client, "modify_ack_deadline", noted)
            assert eventually(lambda: LEASE_SECONDS in extended)
        # Longer than a lease: without the extension the message would be there again.
        assert pull_now(client, subscription) == []


def test_batches__messages_after_the_start(broker_address: str, client: pubsub_v1.SubscriberClient) -> None:
    """Messages that are published after the run began are left for the next run."""
    topic = make_topic(broker_address)
    subscription = make_subscription(broker_address, topic)
    publish(broker_address, topic, b"before")
    began = CLOCK.now()
    publish(broker_address, topic, b"after")
    with Leases(subscription, client) as leases:
        assert [[received.message.data for received in batch] for batch in batches(leases, began)] == [[b"before"]]
    assert remaining(client, subscription) == [b"after", b"before"]


def test_batches__older_messages_behind_newer_ones(
    broker_address: str, client: pubsub_v1.SubscriberClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Older messages behind newer ones are pulled too."""
    monkeypatch.setattr(leases_module, "PULL_MESSAGES", 2)
    topic = make_topic(broker_address)
    subscription = make_subscription(broker_address, topic)
    publish(broker_address, topic, b"before")
    began = CLOCK.now()
    publish(broker_address, topic, b"1", b"2", b"3", b"4")
    # Pub/Sub keeps no order: a released message goes behind the others.
    [first] = client.pull(subscription=subscription, max_messages=1).received_messages
    client.modify_ack_deadline(subscription=subscription, ack_ids=[first.ack_id], ack_deadline_seconds=0)
    with Leases(subscription, client) as leases:
        assert [[received.message.data for received in batch] for batch in batches(leases, began)] == [[b"before"]]
    assert len(remaining(client, subscription)) == 5


def test_batches__ends_on_a_busy_topic(
    broker_address: str, client: pubsub_v1.SubscriberClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run ends although new messages keep arriving."""
    monkeypatch.setattr(leases_module, "PULL_MESSAGES", 1)
    began = CLOCK.now()
    subscription = subscription_with(broker_address, *[b"new"] * 30)
    with Leases(subscription, client) as leases:
        assert list(batches(leases, began)) == []
        assert len(remaining(client, subscription)) == 10
    assert len(pull_now(client, subscription)) == 20


def test_batches__slow_pull(broker_address: str, client: pubsub_v1.SubscriberClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow pull does not end a run: the next one waits longer."""
    subscription = subscription_with(broker_address, b"a")
    pull_once = client.pull
    timeouts = []

    def slow(**request: Any) -> Any:
        timeouts.append(request["timeout"])
        if len(timeouts) == 1:
            raise DeadlineExceeded("too slow")
        return pull_once(**request)

    monkeypatch.setattr(client, "pull", slow)
    with Leases(subscription, client) as leases:
        assert [[received.message.data for received in batch] for batch in batches(leases, later())] == [[b"a"]]
    assert timeouts[:2] == [PULL_SECONDS, SLOW_PULL_SECONDS]


class FakeTime:
    """Stands in for the modules `time` and `random` of google.api_core's Retry.

    A sleep advances the clock and takes no time. Each pause is drawn at its upper bound.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []
        self.lowest: set[float] = set()

    def uniform(self, low: float, high: float) -> float:
        self.lowest.add(low)
        return high

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


@pytest.fixture
def fake_time(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    fake = FakeTime()
    monkeypatch.setattr(retry_base, "time", fake)
    monkeypatch.setattr(retry_unary, "time", fake)
    monkeypatch.setattr(retry_base, "random", fake)
    return fake


def failing(*errors: Exception) -> Callable[[], int]:
    """Return a request that raises each error in turn, then returns 7."""
    waiting = list(errors)

    def call() -> int:
        if waiting:
            raise waiting.pop(0)
        return 7

    return call


def test_with_retry__pauses_double_up_to_the_longest(fake_time: FakeTime, caplog: pytest.LogCaptureFixture) -> None:
    """Pauses are random, and their upper bound doubles up to the longest one."""
    errors = [ServiceUnavailable("no route"), RetryError("no", None), DeadlineExceeded("no"), *[Aborted("no")] * 4]
    with caplog.at_level(logging.WARNING):
        assert with_retry(failing(*errors), "it") == 7
    assert fake_time.pauses == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    assert fake_time.lowest == {0.0}, "runs that fail together retry at the same time"
    assert caplog.messages == ["it: Pub/Sub does not answer, retrying for 60 s: no route"]


def test_with_retry__gives_up_after_a_minute(fake_time: FakeTime) -> None:
    """Retries end after a minute, and the error names the time."""

    def call() -> None:
        raise ServiceUnavailable("connection refused")

    message = "it: Pub/Sub has been unreachable for 60 s: connection refused. What to do: run the command again"
    with pytest.raises(PubSubError, match=f"^{re.escape(message)}"):
        with_retry(call, "it")
    assert 55 <= fake_time.now <= 60


REFUSED = "it: Pub/Sub refused a request"
CORRECT = "What to do: correct the permissions or the resource"


@pytest.mark.parametrize(
    ("refusal", "message"),
    [
        (PermissionDenied("not you"), f"{REFUSED}: not you. {CORRECT}"),
        (InvalidArgument("not so"), f"{REFUSED}: not so. {CORRECT}"),
        (NotFound("not there"), "it does not exist any more. What to do: create it again, or name another one"),
    ],
)
def test_with_retry__permanent_errors_fail_at_once(
    refusal: GoogleAPICallError, message: str, fake_time: FakeTime, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), pytest.raises(PubSubError, match=f"^{re.escape(message)}$"):
        with_retry(failing(refusal), "it")
    assert fake_time.pauses == []
    assert caplog.messages == []


def test_with_retry__other_errors_pass(fake_time: FakeTime) -> None:
    """A mistake in the program is neither retried nor hidden."""
    with pytest.raises(ZeroDivisionError):
        with_retry(failing(ZeroDivisionError()), "it")
    assert fake_time.pauses == []


def test_check_subscription__missing(client: pubsub_v1.SubscriberClient) -> None:
    """A missing subscription is reported in one line."""
    name = "projects/test-project/subscriptions/none-such"
    with pytest.raises(PubSubError, match=f"^{name} does not exist. What to do: create it, or correct the name$"):
        check_subscription(client, name)
