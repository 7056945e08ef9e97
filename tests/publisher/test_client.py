"""The client library against a broker."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest
from google.cloud import pubsub_v1
from google.pubsub_v1.types import PubsubMessage

from publisher import EventPublisher, Outgoing, PublisherError
from publisher import client_settings as publisher_settings
from schemas.audit_reports import PublishedReport, parse_report
from schemas.fingerprints import Tally
from tests.support.pubsub import free_port, make_subscription, make_topic, publisher, pull, pull_now, subscriber

pytestmark = pytest.mark.integration

NOW = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)
HOUR = datetime(2026, 1, 31, 9, tzinfo=UTC)


@dataclass(frozen=True)
class Channel:
    """A topic with a subscription on it."""

    topic: str
    subscription: str
    client: pubsub_v1.SubscriberClient

    def messages(self, expected: int) -> list[PubsubMessage]:
        """Return all messages in no order: at least `expected`, plus any surplus."""
        received = pull(self.client, self.subscription, expected) + pull_now(self.client, self.subscription)
        return [item.message for item in received]

    def reports(self, expected: int) -> list[PublishedReport]:
        """Return all reports in no order: at least `expected`, plus any surplus."""
        reports = []
        for message in self.messages(expected):
            report = parse_report(message.data)
            assert dict(message.attributes) == {"report": "published", "report_id": report.id}
            assert isinstance(report, PublishedReport)
            reports.append(report)
        return reports


MakeChannel = Callable[[], Channel]


@pytest.fixture
def make_channel(broker_address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeChannel]:
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", broker_address)
    with subscriber(broker_address) as client:

        def make() -> Channel:
            topic = make_topic(broker_address)
            return Channel(topic, make_subscription(broker_address, topic), client)

        yield make


@pytest.fixture
def events(make_channel: MakeChannel) -> Channel:
    return make_channel()


@pytest.fixture
def audit(make_channel: MakeChannel) -> Channel:
    return make_channel()


def ids() -> Callable[[], str]:
    numbers = count(1)
    return lambda: f"id-{next(numbers)}"


def at_now() -> datetime:
    return NOW


def test_publish__mapping(events: Channel) -> None:
    """A mapping is published as JSON with an id and the clock's time."""
    with EventPublisher(events.topic, clock=at_now, new_id=ids(), reporter="r") as sender:
        sender.publish("click", {"x": 1, "text": "ü"})
    (message,) = events.messages(1)
    assert json.loads(message.data) == {"x": 1, "text": "ü"}
    own = {"event_type": "click", "event_id": "id-1", "received_at": "2026-01-31T09:30:00Z"}
    assert dict(message.attributes) == own | {"dedup_key": "id-2"}


def test_publish__all_arguments(events: Channel) -> None:
    """All arguments of `publish` become attributes of the message."""
    received_at = datetime(2026, 1, 30, 22, 15, 0, 250_000, tzinfo=UTC)
    with EventPublisher(events.topic, new_id=ids()) as sender:
        sender.publish(
            "click",
            b"\x00\xff",
            event_id="e1",
            received_at=received_at,
            schema_version=3,
            content_type="application/avro",
            sent_at=received_at - timedelta(seconds=1),
            attributes={"region": "north", "event_id": "not this one"},
        )
    (message,) = events.messages(1)
    assert message.data == b"\x00\xff"
    assert dict(message.attributes) == {
        "event_type": "click",
        "event_id": "e1",
        "received_at": "2026-01-30T22:15:00.250000Z",
        "schema_version": "3",
        "content_type": "application/avro",
        "sent_at": "2026-01-30T22:14:59.250000Z",
        "region": "north",
        "dedup_key": "id-2",
    }


def test_publish__dedup_key_per_message(events: Channel, audit: Channel) -> None:
    """Each message that is counted has a dedup key of its own.

    Dataflow silently drops the second message with the same key: the counters would miss it, and the event would be lost if
    the first one was refused.
    """
    events_sent = [
        ("click", "a", 1, NOW),
        ("click", "a", 1, NOW),
        ("click", "a", 2, NOW),
        ("click", "a", 1, NOW + timedelta(hours=1)),
    ]
    with EventPublisher(events.topic, audit.topic) as sender:
        for event_type, event_id, version, moment in events_sent:
            sender.publish(event_type, {"x": 1}, event_id=event_id, schema_version=version, received_at=moment)
    keys = {message.attributes["dedup_key"] for message in events.messages(len(events_sent))}
    assert len(keys) == sum(report.messages.count for report in audit.reports(2)) == len(events_sent)


def test_reports__equal_the_messages(events: Channel, audit: Channel) -> None:
    """Reports per type and hour equal the messages that a subscriber receives."""
    with EventPublisher(events.topic, audit.topic, reporter="r") as sender:
        for number in range(3_000):
            sender.publish(
                f"type_{number % 3}",
                {"n": number},
                event_id=f"e{number % 2_500}",
                received_at=HOUR + timedelta(minutes=number % 120),
            )
    assert (sender.acknowledged, sender.failures, sender.reported, sender.unreported) == (
        3_000,
        [],
        6,
        [],
    )
    found: dict[tuple[str, str], list[str]] = {}
    for message in events.messages(3_000):
        key = message.attributes["event_type"], message.attributes["received_at"][:13]
        found.setdefault(key, []).append(message.attributes["event_id"])
    reports = {(report.event_type, f"{report.hour:%Y-%m-%dT%H}"): report for report in audit.reports(6)}
    assert {key: report.messages for key, report in reports.items()} == {
        key: Tally.of_ids(event_ids) for key, event_ids in found.items()
    }
    assert {key: report.distinct for key, report in reports.items()} == {
        key: Tally.of_ids(set(event_ids)) for key, event_ids in found.items()
    }
    assert sum(len(event_ids) for event_ids in found.values()) == 3_000
    assert {report.reporter for report in reports.values()} == {"r"}


@pytest.mark.parametrize("no_id", [{}, {"event_id": ""}])
def test_publish_raw__without_id_and_type(events: Channel, audit: Channel, no_id: dict[str, str]) -> None:
    """An event without an id counts by its message id, and one without a type under the empty name."""
    with EventPublisher(events.topic, audit.topic, clock=at_now) as sender:
        sender.publish_raw(b"{", {"received_at": "2026-01-31T07:59:00Z", **no_id})
    (message,) = events.messages(1)
    (report,) = audit.reports(1)
    assert (report.event_type, report.hour) == ("", HOUR - timedelta(hours=2))
    assert report.messages == Tally.of_ids([message.message_id])


def test_publish__empty_id(events: Channel, audit: Channel) -> None:
    """An empty id counts as none: a new one is made."""
    with EventPublisher(events.topic, audit.topic, clock=at_now, new_id=ids()) as sender:
        sender.publish("click", {}, event_id="")
        sender.publish("click", {}, event_id="")
    found = {message.attributes["event_id"] for message in events.messages(2)}
    assert len(found) == 2
    assert all(found)
    (report,) = audit.reports(1)
    assert report.distinct == Tally.of_ids(found)


def test_publish_raw__unreadable_stamp(events: Channel, audit: Channel) -> None:
    """A raw message arrives unchanged, and counts for the clock's hour if its stamp can't be read."""
    with EventPublisher(events.topic, audit.topic, clock=at_now) as sender:
        sender.publish_raw(b"", {"event_type": "click", "event_id": "e1", "received_at": "soon"})
    (message,) = events.messages(1)
    assert (message.data, dict(message.attributes)) == (
        b"",
        {"event_type": "click", "event_id": "e1", "received_at": "soon"},
    )
    (report,) = audit.reports(1)
    assert (report.event_type, report.hour, report.distinct) == ("click", HOUR, Tally.of_ids(["e1"]))


def test_expect__empty_hour(events: Channel, audit: Channel) -> None:
    """An expected hour without events is reported as zero."""
    with EventPublisher(events.topic, audit.topic) as sender:
        sender.expect("click", HOUR)
    (report,) = audit.reports(1)
    assert (report.event_type, report.hour, report.messages, report.distinct) == ("click", HOUR, Tally(), Tally())


def test_report__only_new_events(events: Channel, audit: Channel) -> None:
    """A second report adds only events since the first."""
    with EventPublisher(events.topic, audit.topic, clock=at_now) as sender:
        sender.publish("click", {}, event_id="a")
        sender.report()
        sender.publish("click", {}, event_id="a")
        sender.publish("click", {}, event_id="b")
    reports = audit.reports(2)
    assert Counter(report.messages.count for report in reports) == {1: 1, 2: 1}
    assert sum((report.distinct for report in reports), Tally()) == Tally.of_ids(["a", "b"])


def test_publish__thread_safe(events: Channel, audit: Channel) -> None:
    """Several threads may publish."""
    with EventPublisher(events.topic, audit.topic, clock=at_now) as sender:

        def publish_many(worker: int) -> None:
            for number in range(1_500):
                sender.publish("click", {}, event_id=f"{worker}-{number}")

        threads = [threading.Thread(target=publish_many, args=(worker,)) for worker in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    expected = Tally.of_ids(f"{worker}-{number}" for worker in range(4) for number in range(1_500))
    assert Tally.of_ids(message.attributes["event_id"] for message in events.messages(6_000)) == expected
    (report,) = audit.reports(1)
    assert report.messages == report.distinct == expected


@pytest.mark.parametrize(
    ("data", "attributes", "error"),
    [
        (b"x" * 9_800_001, {"event_type": "click"}, "9800001 bytes"),
        (b"", {}, "the message has neither payload nor attributes"),
        (b"x", {"n" * 257: "v"}, "too long"),
        (b"x", {"event_id": "ü" * 513}, "'event_id' is too long"),
        (b"x", {f"a{number}": "v" for number in range(101)}, "101 attributes"),
        (b"x", {"topic": "v"}, "can't be named 'topic'"),
        (b"x", {"google": "v"}, "can't be named 'google'"),
        (b"x", {"event_id": "\ud800"}, "not valid Unicode"),
    ],
    ids=["10 MB", "nothing", "long name", "long value", "many", "an argument's name", "Google's name", "half a character"],
)
def test_publish_raw__refused_by_pubsub(
    events: Channel, audit: Channel, data: bytes, attributes: dict[str, str], error: str
) -> None:
    """A message that Pub/Sub would refuse is a failure of its own, and its neighbours arrive."""
    with EventPublisher(events.topic, audit.topic, clock=at_now) as sender:
        sender.publish("click", {}, event_id="before")
        sender.publish_raw(data, attributes, source="line 2")
        sender.publish("click", {}, event_id="after")
    (failure,) = sender.failures
    assert failure.event == Outgoing(data, attributes, "line 2")
    assert error in failure.error
    assert {message.attributes["event_id"] for message in events.messages(2)} == {"before", "after"}
    (report,) = audit.reports(1)
    assert report.messages == Tally.of_ids(["before", "after"])


def test_publish_raw__largest_message(events: Channel) -> None:
    """A payload of 9.8 MB with attributes of the largest size arrives."""
    attributes = {f"{number:0256}": "v" * 1_024 for number in range(100)}
    with EventPublisher(events.topic) as sender:
        sender.publish_raw(b"x" * 9_800_000, attributes)
    assert sender.failures == []
    (message,) = events.messages(1)
    assert len(message.data) == 9_800_000
    assert dict(message.attributes) == attributes


def test_publish__topic_is_deleted_midway(
    events: Channel,
    audit: Channel,
    broker_address: str,
) -> None:
    """Each event is either counted or a failure."""
    with EventPublisher(events.topic, audit.topic, clock=at_now) as sender:
        for number in range(500):
            sender.publish("click", {}, event_id=f"a{number}")
        sender.report()
        with publisher(broker_address) as client:
            client.delete_topic(topic=events.topic)
        for number in range(1_500):
            sender.publish("click", {"n": number}, event_id=f"b{number}", source=number)
    assert sender.acknowledged == 500
    assert sorted(failure.event.source for failure in sender.failures) == list(range(1_500))  # type: ignore[type-var]
    assert {json.loads(failure.event.data)["n"] for failure in sender.failures} == set(range(1_500))
    assert all("404" in failure.error and "\n" not in failure.error for failure in sender.failures)
    (report,) = audit.reports(1)
    assert report.distinct == Tally.of_ids(f"a{number}" for number in range(500))


def test_report__retried_under_its_id(
    events: Channel,
    audit: Channel,
    broker_address: str,
) -> None:
    """Reports that could not be published are listed, and are sent again under their ids."""
    with publisher(broker_address) as client:
        client.delete_topic(topic=audit.topic)
        with EventPublisher(events.topic, audit.topic, clock=at_now) as sender:
            sender.publish("click", {}, event_id="a")
            sender.report()
            (lost,) = sender.unreported
            assert (lost.report.distinct, sender.reported) == (Tally.of_ids(["a"]), 0)
            assert "404" in lost.error
            client.create_topic(name=audit.topic)
            subscription = make_subscription(broker_address, audit.topic)
    assert (sender.unreported, sender.reported) == ([], 1)
    assert Channel(audit.topic, subscription, audit.client).reports(1) == [lost.report]


def test_publish__deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Events become failures if the broker does not respond within the deadline."""
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", f"127.0.0.1:{free_port()}")
    monkeypatch.setattr(publisher_settings, "PUBLISH_DEADLINE_SECONDS", 1.0)
    with EventPublisher("projects/some-project/topics/events", "projects/some-project/topics/audit", clock=at_now) as sender:
        sender.publish("click", {}, event_id="a")
    assert [failure.event.attributes["event_id"] for failure in sender.failures] == ["a"]
    assert sender.acknowledged == 0
    assert sender.unreported == []


def test_check__unreachable_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", address)
    with EventPublisher("projects/some-project/topics/events") as sender, pytest.raises(PublisherError, match=address):
        sender.check()


def test_check__missing_topic(events: Channel) -> None:
    missing = "projects/some-project/topics/missing"
    with EventPublisher(events.topic) as sender:
        sender.check()
    for topic, audit_topic in ((missing, None), (events.topic, missing)):
        with (
            EventPublisher(topic, audit_topic) as sender,
            pytest.raises(PublisherError, match=f"topic {missing} does not exist"),
        ):
            sender.check()


def test_publisher__missing_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PUBSUB_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "nowhere.json")
    with pytest.raises(PublisherError, match=r"no credentials for Pub/Sub: .*nowhere.json.*PUBSUB_EMULATOR_HOST"):
        EventPublisher("projects/some-project/topics/events")


@pytest.mark.parametrize(
    ("topic", "audit_topic"),
    [
        ("events", None),
        ("projects/p/topics/", None),
        ("projects/p/topics/e", ""),
        ("projects/p/topics/e", "projects/p/topics/e"),
    ],
)
def test_publisher__invalid_topics(topic: str, audit_topic: str | None) -> None:
    """Names that are no topic, and one topic for both events and reports, are refused."""
    with pytest.raises(PublisherError):
        EventPublisher(topic, audit_topic)


def test_close__is_idempotent(events: Channel) -> None:
    """A closed publisher accepts no events and can be closed again."""
    sender = EventPublisher(events.topic)
    sender.close()
    sender.close()
    with pytest.raises(RuntimeError, match="closed"):
        sender.publish("click", {})


def test_close__leaves_a_passed_client_open(events: Channel) -> None:
    """A client that the caller has passed stays open."""
    client = publisher_settings.make_client()
    for number in range(2):
        with EventPublisher(events.topic, client=client) as sender:
            sender.publish("click", {}, event_id=f"e{number}")
    client.stop()
    assert {message.attributes["event_id"] for message in events.messages(2)} == {"e0", "e1"}


@pytest.mark.parametrize("field", ["received_at", "sent_at"])
def test_publish__time_without_a_zone(events: Channel, field: str) -> None:
    """A time without a zone is the caller's mistake: ValueError, not a failure."""
    with EventPublisher(events.topic) as sender, pytest.raises(ValueError, match="no time zone"):
        sender.publish("click", {}, **{field: datetime(2026, 1, 31, 9)})  # type: ignore[arg-type]  # noqa: DTZ001


def test_make_client__settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client blocks instead of buffering without bounds, and retries for ten minutes."""
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", "127.0.0.1:1")
    client = publisher_settings.make_client()
    options = client.publisher_options
    assert options.flow_control.limit_exceeded_behavior == pubsub_v1.types.LimitExceededBehavior.BLOCK
    assert options.retry.timeout == 600
    assert client.batch_settings.max_messages <= 1_000
    client.stop()
