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

pytestmark = pytest.mark.slow

NOW = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)
HOUR = datetime(2026, 1, 31, 9, tzinfo=UTC)


@dataclass(frozen=True)
class Channel:
    """A topic, and what came out of a subscription on it."""

    topic: str
    subscription: str
    client: pubsub_v1.SubscriberClient

    def messages(self, expected: int) -> list[PubsubMessage]:
        """All messages, in no order: `expected` of them, and whatever there is beyond."""
        received = pull(self.client, self.subscription, expected) + pull_now(self.client, self.subscription)
        return [one.message for one in received]

    def reports(self, expected: int) -> list[PublishedReport]:
        found = []
        for message in self.messages(expected):
            report = parse_report(message.data)
            assert dict(message.attributes) == {"report": "published", "report_id": report.id}
            assert isinstance(report, PublishedReport)
            found.append(report)
        return found


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


def test_a_mapping_is_published_as_json_with_an_id_and_the_clocks_time(events: Channel) -> None:
    with EventPublisher(events.topic, clock=at_now, new_id=ids(), reporter="r") as made:
        made.publish("click", {"x": 1, "text": "ü"})
    (message,) = events.messages(1)
    assert json.loads(message.data) == {"x": 1, "text": "ü"}
    own = {"event_type": "click", "event_id": "id-1", "received_at": "2026-01-31T09:30:00Z"}
    assert dict(message.attributes) == own | {"dedup_key": "id-2"}


def test_all_that_the_caller_says_of_an_event_goes_into_its_attributes(events: Channel) -> None:
    received_at = datetime(2026, 1, 30, 22, 15, 0, 250_000, tzinfo=UTC)
    with EventPublisher(events.topic, new_id=ids()) as made:
        made.publish(
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


def test_each_message_that_is_counted_has_a_dedup_key_of_its_own(events: Channel, audit: Channel) -> None:
    """Dataflow drops the second one of a key unseen: the counters would miss it, and where the first was refused, the event."""
    said = [("click", "a", 1, NOW), ("click", "a", 1, NOW), ("click", "a", 2, NOW), ("click", "a", 1, NOW + timedelta(hours=1))]
    with EventPublisher(events.topic, audit.topic) as made:
        for event_type, event_id, version, moment in said:
            made.publish(event_type, {"x": 1}, event_id=event_id, schema_version=version, received_at=moment)
    keys = {message.attributes["dedup_key"] for message in events.messages(len(said))}
    assert len(keys) == sum(report.messages.count for report in audit.reports(2)) == len(said)


def test_the_reports_say_per_type_and_hour_what_a_subscriber_finds(events: Channel, audit: Channel) -> None:
    with EventPublisher(events.topic, audit.topic, reporter="r") as made:
        for number in range(3_000):
            made.publish(
                f"type_{number % 3}",
                {"n": number},
                event_id=f"e{number % 2_500}",
                received_at=HOUR + timedelta(minutes=number % 120),
            )
    assert (made.acknowledged, made.failures, made.reported, made.unreported) == (3_000, [], 6, [])
    found: dict[tuple[str, str], list[str]] = {}
    for message in events.messages(3_000):
        key = message.attributes["event_type"], message.attributes["received_at"][:13]
        found.setdefault(key, []).append(message.attributes["event_id"])
    reports = {(one.event_type, f"{one.hour:%Y-%m-%dT%H}"): one for one in audit.reports(6)}
    assert {key: one.messages for key, one in reports.items()} == {key: Tally.of_ids(all_) for key, all_ in found.items()}
    assert {key: one.distinct for key, one in reports.items()} == {key: Tally.of_ids(set(all_)) for key, all_ in found.items()}
    assert sum(len(all_) for all_ in found.values()) == 3_000
    assert {one.reporter for one in reports.values()} == {"r"}


@pytest.mark.parametrize("no_id", [{}, {"event_id": ""}])
def test_an_event_without_an_id_counts_by_its_message_id_and_one_without_a_type_under_no_name(
    events: Channel, audit: Channel, no_id: dict[str, str]
) -> None:
    with EventPublisher(events.topic, audit.topic, clock=at_now) as made:
        made.publish_raw(b"{", {"received_at": "2026-01-31T07:59:00Z", **no_id})
    (message,) = events.messages(1)
    (report,) = audit.reports(1)
    assert (report.event_type, report.hour) == ("", HOUR - timedelta(hours=2))
    assert report.messages == Tally.of_ids([message.message_id])


def test_an_empty_id_is_none(events: Channel, audit: Channel) -> None:
    with EventPublisher(events.topic, audit.topic, clock=at_now, new_id=ids()) as made:
        made.publish("click", {}, event_id="")
        made.publish("click", {}, event_id="")
    found = {message.attributes["event_id"] for message in events.messages(2)}
    assert len(found) == 2
    assert all(found)
    (report,) = audit.reports(1)
    assert report.distinct == Tally.of_ids(found)


def test_a_raw_message_arrives_as_it_is_and_counts_under_the_hour_of_the_clock_if_it_claims_none(
    events: Channel, audit: Channel
) -> None:
    with EventPublisher(events.topic, audit.topic, clock=at_now) as made:
        made.publish_raw(b"", {"event_type": "click", "event_id": "e1", "received_at": "soon"})
    (message,) = events.messages(1)
    assert (message.data, dict(message.attributes)) == (
        b"",
        {"event_type": "click", "event_id": "e1", "received_at": "soon"},
    )
    (report,) = audit.reports(1)
    assert (report.event_type, report.hour, report.distinct) == ("click", HOUR, Tally.of_ids(["e1"]))


def test_an_expected_hour_is_reported_as_zero(events: Channel, audit: Channel) -> None:
    with EventPublisher(events.topic, audit.topic) as made:
        made.expect("click", HOUR)
    (report,) = audit.reports(1)
    assert (report.event_type, report.hour, report.messages, report.distinct) == ("click", HOUR, Tally(), Tally())


def test_a_second_report_adds_only_what_came_since(events: Channel, audit: Channel) -> None:
    with EventPublisher(events.topic, audit.topic, clock=at_now) as made:
        made.publish("click", {}, event_id="a")
        made.report()
        made.publish("click", {}, event_id="a")
        made.publish("click", {}, event_id="b")
    reports = audit.reports(2)
    assert Counter(one.messages.count for one in reports) == {1: 1, 2: 1}
    assert sum((one.distinct for one in reports), Tally()) == Tally.of_ids(["a", "b"])


def test_many_threads_may_publish(events: Channel, audit: Channel) -> None:
    with EventPublisher(events.topic, audit.topic, clock=at_now) as made:

        def work(name: int) -> None:
            for number in range(1_500):
                made.publish("click", {}, event_id=f"{name}-{number}")

        threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    expected = Tally.of_ids(f"{name}-{number}" for name in range(4) for number in range(1_500))
    assert Tally.of_ids(message.attributes["event_id"] for message in events.messages(6_000)) == expected
    (report,) = audit.reports(1)
    assert report.messages == report.distinct == expected


@pytest.mark.parametrize(
    ("data", "attributes", "error"),
    [
        (b"x" * 9_800_001, {"event_type": "click"}, "9800001 bytes"),
        (b"", {}, "neither payload nor attributes"),
        (b"x", {"n" * 257: "v"}, "too long"),
        (b"x", {"event_id": "ü" * 513}, "'event_id' is too long"),
        (b"x", {f"a{number}": "v" for number in range(101)}, "101 attributes"),
        (b"x", {"topic": "v"}, "can't be called 'topic'"),
        (b"x", {"google": "v"}, "can't be called 'google'"),
        (b"x", {"event_id": "\ud800"}, "not valid Unicode"),
    ],
    ids=["10 MB", "nothing", "long name", "long value", "many", "an argument's name", "Google's name", "half a character"],
)
def test_what_pubsub_would_refuse_is_a_failure_of_its_own_and_its_neighbours_arrive(
    events: Channel, audit: Channel, data: bytes, attributes: dict[str, str], error: str
) -> None:
    with EventPublisher(events.topic, audit.topic, clock=at_now) as made:
        made.publish("click", {}, event_id="before")
        made.publish_raw(data, attributes, source="line 2")
        made.publish("click", {}, event_id="after")
    (failure,) = made.failures
    assert failure.event == Outgoing(data, attributes, "line 2")
    assert error in failure.error
    assert {message.attributes["event_id"] for message in events.messages(2)} == {"before", "after"}
    (report,) = audit.reports(1)
    assert report.messages == Tally.of_ids(["before", "after"])


def test_a_payload_of_9_mb_and_attributes_of_the_largest_size_arrive(events: Channel) -> None:
    attributes = {f"{number:0256}": "v" * 1_024 for number in range(100)}
    with EventPublisher(events.topic) as made:
        made.publish_raw(b"x" * 9_800_000, attributes)
    assert made.failures == []
    (message,) = events.messages(1)
    assert len(message.data) == 9_800_000
    assert dict(message.attributes) == attributes


def test_when_the_topic_is_deleted_midway_each_event_is_either_counted_or_a_failure(
    events: Channel,
    audit: Channel,
    broker_address: str,
) -> None:
    with EventPublisher(events.topic, audit.topic, clock=at_now) as made:
        for number in range(500):
            made.publish("click", {}, event_id=f"a{number}")
        made.report()
        with publisher(broker_address) as client:
            client.delete_topic(topic=events.topic)
        for number in range(1_500):
            made.publish("click", {"n": number}, event_id=f"b{number}", source=number)
    assert made.acknowledged == 500
    assert sorted(failure.event.source for failure in made.failures) == list(range(1_500))  # type: ignore[type-var]
    assert {json.loads(failure.event.data)["n"] for failure in made.failures} == set(range(1_500))
    assert all("404" in failure.error and "\n" not in failure.error for failure in made.failures)
    (report,) = audit.reports(1)
    assert report.distinct == Tally.of_ids(f"a{number}" for number in range(500))


def test_reports_that_were_not_taken_are_told_and_go_out_again_under_their_ids(
    events: Channel,
    audit: Channel,
    broker_address: str,
) -> None:
    with publisher(broker_address) as client:
        client.delete_topic(topic=audit.topic)
        with EventPublisher(events.topic, audit.topic, clock=at_now) as made:
            made.publish("click", {}, event_id="a")
            made.report()
            (lost,) = made.unreported
            assert (lost.report.distinct, made.reported) == (Tally.of_ids(["a"]), 0)
            assert "404" in lost.error
            client.create_topic(name=audit.topic)
            subscription = make_subscription(broker_address, audit.topic)
    assert (made.unreported, made.reported) == ([], 1)
    assert Channel(audit.topic, subscription, audit.client).reports(1) == [lost.report]


def test_a_broker_that_does_not_answer_makes_failures_when_the_deadline_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", f"127.0.0.1:{free_port()}")
    monkeypatch.setattr(publisher_settings, "PUBLISH_DEADLINE_SECONDS", 1.0)
    with EventPublisher("projects/some-project/topics/events", "projects/some-project/topics/audit", clock=at_now) as made:
        made.publish("click", {}, event_id="a")
    assert [failure.event.attributes["event_id"] for failure in made.failures] == ["a"]
    assert made.acknowledged == 0
    assert made.unreported == []


def test_an_unreachable_broker_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", address)
    with EventPublisher("projects/some-project/topics/events") as made, pytest.raises(PublisherError, match=address):
        made.check()


def test_a_missing_topic_is_told_also_the_audits(events: Channel) -> None:
    missing = "projects/some-project/topics/missing"
    with EventPublisher(events.topic) as made:
        made.check()
    for topic, audit_topic in ((missing, None), (events.topic, missing)):
        with EventPublisher(topic, audit_topic) as made, pytest.raises(PublisherError, match=f"topic {missing} does not exist"):
            made.check()


def test_missing_credentials_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_a_name_that_is_no_topic_and_one_topic_for_both_uses_are_refused(topic: str, audit_topic: str | None) -> None:
    with pytest.raises(PublisherError):
        EventPublisher(topic, audit_topic)


def test_a_closed_publisher_takes_no_events_and_can_be_closed_again(events: Channel) -> None:
    made = EventPublisher(events.topic)
    made.close()
    made.close()
    with pytest.raises(RuntimeError, match="closed"):
        made.publish("click", {})


def test_a_client_that_was_given_stays_open(events: Channel) -> None:
    client = publisher_settings.make_client()
    for number in range(2):
        with EventPublisher(events.topic, client=client) as made:
            made.publish("click", {}, event_id=f"e{number}")
    client.stop()
    assert {message.attributes["event_id"] for message in events.messages(2)} == {"e0", "e1"}


@pytest.mark.parametrize("field", ["received_at", "sent_at"])
def test_a_time_without_a_zone_is_the_callers_mistake(events: Channel, field: str) -> None:
    with EventPublisher(events.topic) as made, pytest.raises(ValueError, match="no time zone"):
        made.publish("click", {}, **{field: datetime(2026, 1, 31, 9)})  # type: ignore[arg-type]  # noqa: DTZ001


def test_the_client_blocks_rather_than_hoard_and_retries_for_ten_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", "127.0.0.1:1")
    client = publisher_settings.make_client()
    options = client.publisher_options
    assert options.flow_control.limit_exceeded_behavior == pubsub_v1.types.LimitExceededBehavior.BLOCK
    assert options.retry.timeout == 600
    assert client.batch_settings.max_messages <= 1_000
    client.stop()
