"""An ack follows durability: what is leased, assigned to packs, acknowledged and released; and the messages of errors."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
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

from tests.support.pubsub import make_subscription, make_topic, publish, pull, subscriber
from transforms.pubsub import leases as leases_module
from transforms.pubsub.leases import Leases, batches, leases_for
from transforms.pubsub.retry import PubSubError, check_subscription, with_retry

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases_module, "PULL_SECONDS", 0.3)
    monkeypatch.setattr(leases_module, "SLOW_PULL_SECONDS", 1.0)


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


def taken(leases: Leases) -> dict[str, bytes]:
    """All that is there: payloads by message ids."""
    return {one.message.message_id: one.message.data for batch in batches(leases, later()) for one in batch}


def test_what_was_acknowledged_does_not_come_again(broker_address: str, client: pubsub_v1.SubscriberClient) -> None:
    subscription = subscription_with(broker_address, b"a", b"b")
    with Leases(subscription, client) as leases:
        leases.acknowledge(taken(leases))
        assert (leases.acknowledged, leases.held) == (2, 0)
    assert left(client, subscription) == []


def test_a_run_that_fails_gives_back_at_once_what_was_not_acknowledged(
    broker_address: str, client: pubsub_v1.SubscriberClient
) -> None:
    subscription = subscription_with(broker_address, b"a", b"b", b"c")

    def fail() -> None:
        with Leases(subscription, client) as leases:
            [done] = [one for one, data in taken(leases).items() if data == b"b"]
            leases.acknowledge([done])
            raise RuntimeError("the store is down")

    with pytest.raises(RuntimeError, match="store is down"):
        fail()
    assert left(client, subscription) == [b"a", b"c"]


def test_a_pack_is_acknowledged_when_it_is_settled_and_one_that_never_is_comes_back(
    broker_address: str, client: pubsub_v1.SubscriberClient
) -> None:
    subscription = subscription_with(broker_address, b"a", b"b", b"c")
    with Leases(subscription, client) as leases:
        by_payload = {data: one for one, data in taken(leases).items()}
        leases.assign_pack("first", [by_payload[b"a"], by_payload[b"b"]])
        leases.assign_pack("second", [by_payload[b"c"]])
        assert (leases.acknowledged, leases.held) == (0, 3)
        leases.ack_packs(["first"])
        leases.ack_packs(["first"])
        assert (leases.acknowledged, leases.held) == (2, 1)
    assert left(client, subscription) == [b"c"]


def test_to_settle_a_pack_of_another_process_does_nothing(broker_address: str, client: pubsub_v1.SubscriberClient) -> None:
    subscription = subscription_with(broker_address, b"a")
    with Leases(subscription, client) as leases:
        leases.assign_pack("mine", list(taken(leases)))
        leases.ack_packs(["another's"])
        leases.ack_packs([])
        assert (leases.acknowledged, leases.held) == (0, 1)
    assert left(client, subscription) == [b"a"]


def test_a_message_that_comes_twice_is_acknowledged_by_its_newest_lease(
    broker_address: str, client: pubsub_v1.SubscriberClient
) -> None:
    subscription = subscription_with(broker_address, b"a")
    with Leases(subscription, client) as leases:
        [first] = taken(leases)
        leases.assign_pack("first", [first])
        client.modify_ack_deadline(subscription=subscription, ack_ids=[leases._held[first]], ack_deadline_seconds=0)
        assert list(taken(leases)) == [first]
        leases.assign_pack("second", [first])
        leases.ack_packs(["first"])
        leases.ack_packs(["second"])
        assert leases.acknowledged == 1
    assert left(client, subscription) == []


def test_leases_are_lent_to_the_steps_of_their_process_while_their_block_lasts(client: pubsub_v1.SubscriberClient) -> None:
    with Leases("projects/p/subscriptions/lent", client) as leases:
        assert leases_for("projects/p/subscriptions/lent") is leases
        assert leases_for("projects/p/subscriptions/another") is None
    assert leases_for("projects/p/subscriptions/lent") is None


def test_leases_are_extended_while_the_run_lasts(
    broker_address: str, client: pubsub_v1.SubscriberClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases_module, "LEASE_SECONDS", 2)
    monkeypatch.setattr(leases_module, "EXTEND_EVERY_SECONDS", 0.5)
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


def test_older_messages_behind_newer_ones_are_taken_too(
    broker_address: str, client: pubsub_v1.SubscriberClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases_module, "PULL_MESSAGES", 2)
    topic = make_topic(broker_address)
    subscription = make_subscription(broker_address, topic)
    publish(broker_address, topic, b"before")
    began = datetime.now(UTC)
    publish(broker_address, topic, b"1", b"2", b"3", b"4")
    # Pub/Sub keeps no order: what is given back is behind the rest.
    [first] = client.pull(subscription=subscription, max_messages=1).received_messages
    client.modify_ack_deadline(subscription=subscription, ack_ids=[first.ack_id], ack_deadline_seconds=0)
    with Leases(subscription, client) as leases:
        assert [[received.message.data for received in batch] for batch in batches(leases, began)] == [[b"before"]]
    assert len(left(client, subscription)) == 5


def test_a_topic_on_which_more_and_more_is_published_does_not_keep_a_run_from_its_end(
    broker_address: str, client: pubsub_v1.SubscriberClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases_module, "PULL_MESSAGES", 1)
    began = datetime.now(UTC)
    subscription = subscription_with(broker_address, *[b"new"] * 30)
    with Leases(subscription, client) as leases:
        assert list(batches(leases, began)) == []
        assert len(left(client, subscription)) == 10
    assert len(pull(client, subscription, 30, seconds=1)) == 20


def test_a_pull_that_is_only_slow_does_not_end_a_run(
    broker_address: str, client: pubsub_v1.SubscriberClient, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    assert timeouts[:2] == [0.3, 1.0]


class FakeTime:
    """Stands in for the modules `time` and `random` of google.api_core's Retry.

    A sleep moves the clock and takes no time. Each pause is drawn at its upper bound.
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
    """A request that raises each error in turn, then returns 7."""
    waiting = list(errors)

    def call() -> int:
        if waiting:
            raise waiting.pop(0)
        return 7

    return call


def test_with_retry__random_pauses_double_up_to_the_longest(fake_time: FakeTime, caplog: pytest.LogCaptureFixture) -> None:
    errors = [ServiceUnavailable("no route"), RetryError("no", None), DeadlineExceeded("no"), *[Aborted("no")] * 4]
    with caplog.at_level(logging.WARNING):
        assert with_retry(failing(*errors), "it") == 7
    assert fake_time.pauses == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    assert fake_time.lowest == {0.0}, "runs that fail together come back together"
    assert caplog.messages == ["it: Pub/Sub does not answer, retrying for 60 s: no route"]


def test_with_retry__gives_up_after_a_minute(fake_time: FakeTime) -> None:
    def call() -> None:
        raise ServiceUnavailable("connection refused")

    with pytest.raises(PubSubError, match=r"^it: Pub/Sub has been unreachable for 60 s: connection refused\. What to do: run the command again"):
        with_retry(call, "it")
    assert 55 <= fake_time.now <= 60


@pytest.mark.parametrize(
    ("refusal", "message"),
    [
        (PermissionDenied("not you"), "it: Pub/Sub refused a request: not you. What to do: correct the permissions or the resource"),
        (InvalidArgument("not so"), "it: Pub/Sub refused a request: not so. What to do: correct the permissions or the resource"),
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


def test_a_subscription_that_is_not_there_is_told_in_one_line(client: pubsub_v1.SubscriberClient) -> None:
    name = "projects/test-project/subscriptions/none-such"
    with pytest.raises(PubSubError, match=f"^{name} does not exist. What to do: create it, or correct the name$"):
        check_subscription(client, name)
