from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from google.cloud import pubsub_v1

from publisher.cli import main
from publisher.event_file import Line, read_lines
from publisher.simulate import EVENT_TYPES, expected, simulate
from schemas.audit_reports import PublishedReport, parse_report
from schemas.fingerprints import Tally, total
from tests.support.pubsub import free_port, make_subscription, make_topic, publisher, pull, pull_now, subscriber

pytestmark = pytest.mark.slow

FLIGHTS = Path(__file__).parents[1] / "data" / "flights.ndjson.gz"
END = datetime(2026, 1, 31, 9, tzinfo=UTC)
LINE = '{"event_type": "click", "event_id": "%s", "received_at": "%s", "payload": {"x": 1}}\n'

Message = tuple[bytes, dict[str, str]]


@dataclass(frozen=True)
class Stack:
    """Two topics in a broker, and all that was published to them."""

    address: str
    topic: str
    audit_topic: str
    client: pubsub_v1.SubscriberClient
    events: str
    audit: str

    @property
    def flags(self) -> list[str]:
        return ["--topic", self.topic, "--audit_topic", self.audit_topic]

    def messages(self, expected: int) -> list[Message]:
        """`expected` messages, and whatever there is beyond."""
        received = pull(self.client, self.events, expected) + pull_now(self.client, self.events)
        return [(one.message.data, dict(one.message.attributes)) for one in received]

    def reports(self, expected: int) -> list[PublishedReport]:
        received = pull(self.client, self.audit, expected) + pull_now(self.client, self.audit)
        reports = [parse_report(one.message.data) for one in received]
        return [one for one in reports if isinstance(one, PublishedReport)]


@pytest.fixture
def stack(broker_address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", broker_address)
    topic, audit_topic = make_topic(broker_address), make_topic(broker_address)
    events, audit = make_subscription(broker_address, topic), make_subscription(broker_address, audit_topic)
    with subscriber(broker_address) as client:
        yield Stack(broker_address, topic, audit_topic, client, events, audit)


Printed = Callable[[], tuple[str, str]]


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Printed:
    def read() -> tuple[str, str]:
        captured = capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err
        return captured.out, captured.err

    return read


def test_the_flights_arrive_whole_and_the_reports_say_so_for_every_hour(stack: Stack, printed: Printed) -> None:
    assert main(["publish", str(FLIGHTS), *stack.flags]) == 0
    out, _ = printed()
    assert f"published 5,884 events to {stack.topic}" in out
    assert f"reported 308 counts to {stack.audit_topic}" in out
    with gzip.open(FLIGHTS) as file:
        lines = [json.loads(line) for line in file]
    messages = stack.messages(5_884)
    assert len({attributes.pop("dedup_key") for _, attributes in messages}) == len(lines)
    arrived = {attributes["event_id"]: (json.loads(data), attributes) for data, attributes in messages}
    assert arrived == {
        line["event_id"]: (line["payload"], {key: line[key] for key in ("event_type", "event_id", "received_at")})
        for line in lines
    }
    ids: dict[tuple[str, str], list[str]] = {}
    for line in lines:
        ids.setdefault((line["event_type"], line["received_at"][:13]), []).append(line["event_id"])
    reports = {(one.event_type, f"{one.hour:%Y-%m-%dT%H}"): one for one in stack.reports(308)}
    first = datetime(2013, 7, 1, 4, tzinfo=UTC)
    hours = [f"{first + timedelta(hours=n):%Y-%m-%dT%H}" for n in range(77)]
    types = {"flight_departed", "flight_arrived", "flight_cancelled", "weather_observed"}
    assert reports.keys() == {(kind, hour) for kind in types for hour in hours}
    for key, report in reports.items():
        assert report.messages == report.distinct == Tally.of_ids(ids.get(key, []))


def test_all_keys_of_a_line_reach_the_message(stack: Stack, tmp_path: Path) -> None:
    line = {
        "event_type": "click",
        "event_id": "e1",
        "received_at": "2026-01-31T10:30:00.5+02:00",
        "sent_at": "2026-01-31T08:29:59Z",
        "schema_version": 2,
        "content_type": "application/json",
        "payload": {"text": "ü", "n": None},
    }
    path = tmp_path / "events.ndjson"
    path.write_text("\n" + json.dumps(line) + "\n\n" + json.dumps({"event_type": "view", "payload": {}}))
    before = datetime.now(UTC)
    assert main(["publish", str(path), "--topic", stack.topic]) == 0
    by_type = {attributes["event_type"]: (json.loads(data), attributes) for data, attributes in stack.messages(2)}
    assert by_type["click"] == (
        {"text": "ü", "n": None},
        {
            "event_type": "click",
            "event_id": "e1",
            "received_at": "2026-01-31T08:30:00.500000Z",
            "sent_at": "2026-01-31T08:29:59Z",
            "schema_version": "2",
            "content_type": "application/json",
            "dedup_key": by_type["click"][1]["dedup_key"],
        },
    )
    bare = by_type["view"][1]
    assert len(bare["event_id"]) == 36
    assert before <= datetime.fromisoformat(bare["received_at"]) <= datetime.now(UTC)


BAD_LINES = {
    b'{"event_type": "click"': "not JSON",
    b'["click"]': "not a JSON object",
    b'{"event_type": "click"}': "without payload",
    b'{"payload": {}}': "without event_type",
    b'{"event_type": null, "payload": {}}': "event_type is null",
    b'{"event_type": 7, "payload": {}}': "event_type is not text",
    b'{"event_type": "click", "payload": [1]}': "payload is not an object",
    b'{"event_type": "click", "payload": {}, "recieved_at": "x"}': "'recieved_at'",
    b'{"event_type": "click", "payload": {}, "received_at": "noon"}': "received_at is not an RFC 3339 time",
    b'{"event_type": "click", "payload": {}, "schema_version": "2"}': "schema_version is not a whole number",
    b'{"event_type": "cl\xff", "payload": {}}': "not JSON",
    b'{"event_type": "click", "payload": {}, "event_id": "' + b"x" * 1_025 + b'"}': "too long",
}


@pytest.mark.parametrize("bad", BAD_LINES, ids=BAD_LINES.values())
def test_a_bad_line_is_told_and_kept_and_its_neighbours_arrive(
    stack: Stack, tmp_path: Path, printed: Printed, bad: bytes
) -> None:
    path = tmp_path / "events.ndjson"
    first, last = (LINE % (name, "2026-01-31T08:00:00Z") for name in ("first", "last"))
    path.write_bytes(first.encode() + bad + b"\n" + last.encode())
    assert main(["publish", str(path), *stack.flags]) == 1
    _, err = printed()
    assert "error: not published: 1\n" in err
    assert "line 2: " in err
    assert BAD_LINES[bad] in err
    assert f"{path}.failed.ndjson" in err
    assert (tmp_path / "events.ndjson.failed.ndjson").read_bytes() == bad + b"\n"
    assert {attributes["event_id"] for _, attributes in stack.messages(2)} == {"first", "last"}
    assert stack.reports(1)[0].distinct == Tally.of_ids(["first", "last"])


def test_when_the_topic_vanishes_midway_what_failed_is_exactly_what_did_not_arrive(
    stack: Stack, tmp_path: Path, printed: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "events.ndjson"
    path.write_text("".join(LINE % (f"e{number}", "2026-01-31T08:00:00Z") for number in range(3_000)))

    def read_and_delete(path: Path, position: Callable[[int], None]) -> Iterator[Line]:
        for line in read_lines(path, position):
            if line.number == 2_500:
                with publisher(stack.address) as client:
                    client.delete_topic(topic=stack.topic)
            yield line

    monkeypatch.setattr("publisher.cli.read_lines", read_and_delete)
    assert main(["publish", str(path), *stack.flags]) == 1
    _, err = printed()
    assert "404" in err
    assert "..." in err
    failed = {json.loads(line)["event_id"] for line in (tmp_path / "events.ndjson.failed.ndjson").read_text().splitlines()}
    arrived = {f"e{number}" for number in range(3_000)} - failed
    assert {f"e{number}" for number in range(2_499, 3_000)} <= failed
    assert f"error: not published: {len(failed):,}\n" in err
    assert stack.reports(1)[0].distinct == Tally.of_ids(arrived)


def test_when_it_is_stopped_by_hand_what_was_sent_is_finished_and_reported(
    stack: Stack, printed: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_and_stop(path: Path, position: Callable[[int], None]) -> Iterator[Line]:
        for line in read_lines(path, position):
            if line.number > 100:
                raise KeyboardInterrupt
            yield line

    monkeypatch.setattr("publisher.cli.read_lines", read_and_stop)
    assert main(["publish", str(FLIGHTS), *stack.flags]) == 1
    out, err = printed()
    assert "published 100 events" in out
    assert err == "error: stopped by hand; the rest of the file was not published.\n"
    arrived = [attributes["event_id"] for _, attributes in stack.messages(100)]
    assert total(one.messages for one in stack.reports(1)) == Tally.of_ids(arrived)


def test_progress_is_a_line_now_and_then_where_there_is_no_terminal(
    stack: Stack, printed: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["publish", str(FLIGHTS), "--topic", stack.topic]) == 0
    assert printed()[1] == ""
    monkeypatch.setattr("publisher.progress.LINE_SECONDS", 0.0)
    assert main(["publish", str(FLIGHTS), "--topic", stack.topic]) == 0
    lines = printed()[1].splitlines()
    assert set(lines) <= {f"publishing flights.ndjson.gz: {done}%" for done in range(101)}
    assert lines[-1] == "publishing flights.ndjson.gz: 100%"


def test_failed_lines_can_be_published_as_they_are_once_the_topic_is_back(stack: Stack, tmp_path: Path) -> None:
    path = tmp_path / "events.ndjson.failed.ndjson"
    path.write_text(LINE % ("e1", "2026-01-31T08:00:00Z"))
    assert main(["publish", str(path), *stack.flags]) == 0
    assert [attributes["event_id"] for _, attributes in stack.messages(1)] == ["e1"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_is_cut_is_published_up_to_there_and_told(stack: Stack, tmp_path: Path, printed: Printed) -> None:
    path = tmp_path / "cut.ndjson.gz"
    path.write_bytes(FLIGHTS.read_bytes()[:100_000])
    assert main(["publish", str(path), *stack.flags]) == 1
    out, err = printed()
    assert f"error: {path} is cut or damaged after line " in err
    published = int(out.split()[1].replace(",", ""))
    assert 1_000 < published < 5_884
    reports = stack.reports(4)
    assert total(one.messages for one in reports).count == published


@pytest.mark.parametrize(
    ("name", "data", "error"),
    [
        ("no.ndjson", None, "can't be read: No such file"),
        ("plain.ndjson.gz", b'{"event_type": "click", "payload": {}}\n', "is not gzipped"),
    ],
)
def test_a_file_that_cant_be_read_is_one_clear_line(
    stack: Stack, tmp_path: Path, printed: Printed, name: str, data: bytes | None, error: str
) -> None:
    path = tmp_path / name
    if data is not None:
        path.write_bytes(data)
    assert main(["publish", str(path), *stack.flags]) in (1, 2)
    _, err = printed()
    assert err.count("\n") == 1
    assert str(path) in err
    assert error in err


def test_events_of_very_distant_hours_are_published_without_their_empty_hours(
    stack: Stack, tmp_path: Path, printed: Printed
) -> None:
    path = tmp_path / "events.ndjson"
    path.write_text(LINE % ("a", "1970-01-01T00:00:00Z") + LINE % ("b", "2026-01-31T08:00:00Z"))
    assert main(["publish", str(path), *stack.flags]) == 0
    assert "empty hours are not reported" in printed()[1]
    assert len(stack.reports(2)) == 2


@pytest.mark.parametrize("command", [["publish", str(FLIGHTS)], ["simulate"]])
def test_an_unreachable_broker_is_one_clear_line_before_anything_is_done(
    monkeypatch: pytest.MonkeyPatch, printed: Printed, command: list[str]
) -> None:
    address = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", address)
    assert main([*command, "--topic", "projects/some-project/topics/events"]) == 2
    out, err = printed()
    assert out == ""
    assert err.startswith(f"error: Pub/Sub can't be reached at {address}")
    assert err.count("\n") == 1


@pytest.mark.parametrize("flag", ["--topic", "--audit_topic"])
def test_a_missing_topic_is_one_clear_line_before_anything_is_published(stack: Stack, printed: Printed, flag: str) -> None:
    missing = "projects/some-project/topics/missing"
    assert main(["publish", str(FLIGHTS), *stack.flags, flag, missing]) == 2
    assert printed() == ("", f"error: topic {missing} does not exist. Create it, or correct its name.\n")
    assert stack.messages(0) == []


@pytest.mark.parametrize(
    "end", [(END + timedelta(minutes=1)).isoformat(), "2999-01-01T00:00:00Z"], ids=["within an hour", "in the future"]
)
def test_simulated_hours_must_be_over(stack: Stack, printed: Printed, end: str) -> None:
    assert main(["simulate", *stack.flags, "--end", end]) == 2
    assert "must be the start of an hour, and not in the future" in printed()[1]


@pytest.mark.parametrize(
    "flags", [[], ["--topic", "t", "--events", "0"], ["--topic", "t", "--end", "noon"], ["--topic", "t", "--part", "third"]]
)
def test_wrong_flags_end_with_the_usage(printed: Printed, flags: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["simulate", *flags])
    assert ended.value.code == 2
    assert "usage:" in printed()[1]


def test_the_two_parts_of_simulated_traffic_are_all_of_it_and_the_reports_add_up(stack: Stack) -> None:
    flags = ["--events", "3000", "--seed", "7", "--end", END.isoformat(), *stack.flags]
    made = list(simulate(7, 3_000, 3, END))
    late = [message.event_id for message in made if message.round == 2]
    assert late
    assert main(["simulate", "--part", "first", *flags]) == 0
    first = stack.messages(len(made) - len(late))
    assert main(["simulate", "--part", "second", *flags]) == 0
    second = stack.messages(len(late))
    assert Counter(attributes["event_id"] for _, attributes in first) == Counter(
        message.event_id for message in made if message.round == 1
    )
    assert Counter((data, attributes["event_id"], attributes.get("event_type")) for data, attributes in second) == (
        Counter((message.data, message.event_id, message.event_type) for message in made if message.round == 2)
    )
    silent = {(kind, END - timedelta(hours=n)) for kind in EVENT_TYPES for n in (1, 2, 3)}
    reports = stack.reports(len(silent | set(expected(7, 3_000, 3, END))) + len(silent))
    assert len({one.id for one in reports}) == len(reports)
    for event_type in {message.event_type or "" for message in made} | set(EVENT_TYPES):
        for hour in (END - timedelta(hours=n) for n in (3, 2, 1)):
            ids = [
                message.event_id
                for message in made
                if (message.event_type or "") == event_type and hour <= message.received_at < hour + timedelta(hours=1)
            ]
            told = [one for one in reports if (one.event_type, one.hour) == (event_type, hour)]
            assert total(one.messages for one in told) == Tally.of_ids(ids)
            assert total(one.distinct for one in told) == Tally.of_ids(set(ids))
            assert told or not (ids or event_type in EVENT_TYPES)
