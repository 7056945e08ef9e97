"""The publisher's command line against a broker."""

from __future__ import annotations

import gzip
import json
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from google.cloud import pubsub_v1

from cli.interrupts import Interrupted
from publisher.cli import main
from publisher.event_file import Line, read_lines
from publisher.simulate import EVENT_TYPES, expected, simulate
from schemas.audit_reports import PublishedReport, parse_report
from schemas.fingerprints import Tally, total
from tests.support.pubsub import free_port, make_subscription, make_topic, publisher, pull, pull_now, subscriber
from tests.support.terminal import run_on_terminal

pytestmark = pytest.mark.integration

FLIGHTS = Path(__file__).parents[1] / "data" / "flights.ndjson.gz"
END = datetime(2026, 1, 31, 9, tzinfo=UTC)
LINE = '{"event_type": "click", "event_id": "%s", "received_at": "%s", "payload": {"x": 1}}\n'

Message = tuple[bytes, dict[str, str]]


@dataclass(frozen=True)
class Stack:
    """Two topics in a broker, and the messages that were published to them."""

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
        """Return all messages: at least `expected`, plus any surplus."""
        received = pull(self.client, self.events, expected) + pull_now(self.client, self.events)
        return [(item.message.data, dict(item.message.attributes)) for item in received]

    def reports(self, expected: int) -> list[PublishedReport]:
        """Return all reports: at least `expected`, plus any surplus."""
        received = pull(self.client, self.audit, expected) + pull_now(self.client, self.audit)
        reports = [parse_report(item.message.data) for item in received]
        return [report for report in reports if isinstance(report, PublishedReport)]


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
    """Read stdout and stderr since the last call, and check that there is no stack trace."""

    def read() -> tuple[str, str]:
        captured = capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err
        return captured.out, captured.err

    return read


def test_publish__flights(stack: Stack, printed: Printed) -> None:
    """All flights arrive unchanged, and the reports agree for every hour."""
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
    reports = {(report.event_type, f"{report.hour:%Y-%m-%dT%H}"): report for report in stack.reports(308)}
    first = datetime(2013, 7, 1, 4, tzinfo=UTC)
    hours = [f"{first + timedelta(hours=n):%Y-%m-%dT%H}" for n in range(77)]
    types = {"flight_departed", "flight_arrived", "flight_cancelled", "weather_observed"}
    assert reports.keys() == {(event_type, hour) for event_type in types for hour in hours}
    for key, report in reports.items():
        assert report.messages == report.distinct == Tally.of_ids(ids.get(key, []))


def test_publish__keys_of_a_line(stack: Stack, tmp_path: Path) -> None:
    """All keys of a line reach the message."""
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
    b'{"event_type": "click"}': "payload is missing",
    b'{"payload": {}}': "event_type is missing",
    b'{"event_type": null, "payload": {}}': "event_type is null",
    b'{"event_type": 7, "payload": {}}': "event_type is not text",
    b'{"event_type": "click", "payload": [1]}': "payload is not an object",
    b'{"event_type": "click", "payload": {}, "recieved_at": "x"}': "'recieved_at'",
    b'{"event_type": "click", "payload": {}, "received_at": "noon"}': "received_at is not an RFC 3339 time",
    b'{"event_type": "click", "payload": {}, "schema_version": "2"}': "schema_version is not an integer",
    b'{"event_type": "cl\xff", "payload": {}}': "not JSON",
    b'{"event_type": "click", "payload": {}, "event_id": "' + b"x" * 1_025 + b'"}': "too long",
}


@pytest.mark.parametrize("bad", BAD_LINES, ids=BAD_LINES.values())
def test_publish__bad_line(stack: Stack, tmp_path: Path, printed: Printed, bad: bytes) -> None:
    """A bad line is named and kept in a file, and its neighbours are published."""
    path = tmp_path / "events.ndjson"
    first, last = (LINE % (name, "2026-01-31T08:00:00Z") for name in ("first", "last"))
    path.write_bytes(first.encode() + bad + b"\n" + last.encode())
    assert main(["publish", str(path), *stack.flags]) == 1
    _, err = printed()
    assert "not published: 1\n" in err
    assert "line 2: " in err
    assert BAD_LINES[bad] in err
    assert f"{path}.failed.ndjson" in err
    assert (tmp_path / "events.ndjson.failed.ndjson").read_bytes() == bad + b"\n"
    assert {attributes["event_id"] for _, attributes in stack.messages(2)} == {"first", "last"}
    assert stack.reports(1)[0].distinct == Tally.of_ids(["first", "last"])


def test_publish__topic_is_deleted_midway(
    stack: Stack, tmp_path: Path, printed: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file of failed lines contains exactly the events that were not published."""
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
    failed = {json.loads(line)["event_id"] for line in (tmp_path / "events.ndjson.failed.ndjson").read_text().splitlines()}
    arrived = {f"e{number}" for number in range(3_000)} - failed
    assert {f"e{number}" for number in range(2_499, 3_000)} <= failed
    assert f"not published: {len(failed):,}\n" in err
    assert f"  and {len(failed) - 10} more\n" in err
    assert stack.reports(1)[0].distinct == Tally.of_ids(arrived)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_publish__interrupted(stack: Stack, printed: Printed, monkeypatch: pytest.MonkeyPatch, number: signal.Signals) -> None:
    """After a signal, events that were sent already are completed and reported."""

    def read_and_stop(path: Path, position: Callable[[int], None]) -> Iterator[Line]:
        for line in read_lines(path, position):
            if line.number > 100:
                raise Interrupted(number)
            yield line

    monkeypatch.setattr("publisher.cli.read_lines", read_and_stop)
    assert main(["publish", str(FLIGHTS), *stack.flags]) == 128 + number
    out, err = printed()
    assert "published 100 events" in out
    assert err == "interrupted: not all events were published\n"
    arrived = [attributes["event_id"] for _, attributes in stack.messages(100)]
    assert total(report.messages for report in stack.reports(1)) == Tally.of_ids(arrived)


def test_main__interrupted_on_terminal(stack: Stack) -> None:
    """Ctrl-C after the imports lets the command complete the events that it is sending."""
    command = ["-m", "publisher", "simulate", *stack.flags, "--events=1000000"]
    shown = run_on_terminal(*command, interrupt_at="publishing simulated events")
    assert shown.status == 130, shown.text
    assert shown.lines[-1] == "interrupted: not all events were published"
    assert "Traceback" not in shown.text


def test_publish__progress_without_a_terminal(stack: Stack, printed: Printed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a terminal, progress is a line every LINE_SECONDS."""
    assert main(["publish", str(FLIGHTS), "--topic", stack.topic]) == 0
    assert printed()[1] == ""
    monkeypatch.setattr("cli.progress.LINE_SECONDS", 0.0)
    assert main(["publish", str(FLIGHTS), "--topic", stack.topic]) == 0
    lines = printed()[1].splitlines()
    assert set(lines) <= {f"publishing flights.ndjson.gz: {done}%" for done in range(101)}
    assert lines[-1] == "publishing flights.ndjson.gz: 100%"


def test_publish__file_of_failed_lines(stack: Stack, tmp_path: Path) -> None:
    """The file of failed lines can be published unchanged once the topic exists again."""
    path = tmp_path / "events.ndjson.failed.ndjson"
    path.write_text(LINE % ("e1", "2026-01-31T08:00:00Z"))
    assert main(["publish", str(path), *stack.flags]) == 0
    assert [attributes["event_id"] for _, attributes in stack.messages(1)] == ["e1"]
    assert list(tmp_path.iterdir()) == [path]


def test_publish__truncated_file(stack: Stack, tmp_path: Path, printed: Printed) -> None:
    """A truncated file is published up to the cut, and the error names it."""
    path = tmp_path / "cut.ndjson.gz"
    path.write_bytes(FLIGHTS.read_bytes()[:100_000])
    assert main(["publish", str(path), *stack.flags]) == 2
    out, err = printed()
    assert f"error: {path} is cut or damaged after line " in err
    published = int(out.split()[1].replace(",", ""))
    assert 1_000 < published < 5_884
    reports = stack.reports(4)
    assert total(report.messages for report in reports).count == published


@pytest.mark.parametrize(
    ("name", "data", "error"),
    [
        ("no.ndjson", None, "can't be read: No such file"),
        ("plain.ndjson.gz", b'{"event_type": "click", "payload": {}}\n', "is not gzipped"),
    ],
)
def test_publish__unreadable_file(
    stack: Stack, tmp_path: Path, printed: Printed, name: str, data: bytes | None, error: str
) -> None:
    """A file that can't be read is one clear line."""
    path = tmp_path / name
    if data is not None:
        path.write_bytes(data)
    assert main(["publish", str(path), *stack.flags]) == 2
    _, err = printed()
    assert err.count("\n") == 1
    assert err.startswith(f"error: {path}")
    assert error in err


def test_publish__very_distant_hours(stack: Stack, tmp_path: Path, printed: Printed) -> None:
    """Events of very distant hours are published, and the empty hours between them are not reported."""
    path = tmp_path / "events.ndjson"
    path.write_text(LINE % ("a", "1970-01-01T00:00:00Z") + LINE % ("b", "2026-01-31T08:00:00Z"))
    assert main(["publish", str(path), *stack.flags]) == 0
    assert "empty hours are not reported" in printed()[1]
    assert len(stack.reports(2)) == 2


@pytest.mark.parametrize("command", [["publish", str(FLIGHTS)], ["simulate"]])
def test_main__unreachable_broker(monkeypatch: pytest.MonkeyPatch, printed: Printed, command: list[str]) -> None:
    """An unreachable broker is one clear line before anything is done."""
    address = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", address)
    assert main([*command, "--topic", "projects/some-project/topics/events"]) == 2
    out, err = printed()
    assert out == ""
    assert err.startswith(f"error: Pub/Sub can't be reached at {address}")
    assert err.endswith(" What to do: start the broker (python -m local.pubsub) or unset PUBSUB_EMULATOR_HOST\n")
    assert err.count("\n") == 1


@pytest.mark.parametrize("flag", ["--topic", "--audit_topic"])
def test_publish__missing_topic(stack: Stack, printed: Printed, flag: str) -> None:
    """A missing topic is one clear line, and nothing is published."""
    missing = "projects/some-project/topics/missing"
    assert main(["publish", str(FLIGHTS), *stack.flags, flag, missing]) == 2
    assert printed() == ("", f"error: topic {missing} does not exist. What to do: create it, or correct its name\n")
    assert stack.messages(0) == []


@pytest.mark.parametrize(
    "end",
    [(END + timedelta(minutes=1)).isoformat(), "2999-01-01T00:00:00Z", "0001-01-01T01:00:00Z"],
    ids=["within an hour", "in the future", "in the year 1"],
)
def test_simulate__end_must_be_over(stack: Stack, printed: Printed, end: str) -> None:
    assert main(["simulate", *stack.flags, "--end", end]) == 2
    assert "must be the start of an hour, in 1970 or later, and not in the future" in printed()[1]


@pytest.mark.parametrize(
    "flags", [[], ["--topic", "t", "--events", "0"], ["--topic", "t", "--end", "noon"], ["--topic", "t", "--part", "third"]]
)
def test_simulate__wrong_flags(printed: Printed, flags: list[str]) -> None:
    """Wrong flags are an error of one line."""
    with pytest.raises(SystemExit) as ended:
        main(["simulate", *flags])
    assert ended.value.code == 2
    err = printed()[1]
    assert err.startswith("error: ")
    assert err.endswith("What to do: see python -m publisher simulate --help\n")


def test_simulate__two_parts(stack: Stack) -> None:
    """The two parts of simulated traffic add up to all of it, and so do their reports."""
    flags = ["--events", "3000", "--seed", "7", "--end", END.isoformat(), *stack.flags]
    simulated = list(simulate(7, 3_000, 3, END))
    late = [message.event_id for message in simulated if message.part == 2]
    assert late
    assert main(["simulate", "--part", "first", *flags]) == 0
    first = stack.messages(len(simulated) - len(late))
    assert main(["simulate", "--part", "second", *flags]) == 0
    second = stack.messages(len(late))
    assert Counter(attributes["event_id"] for _, attributes in first) == Counter(
        message.event_id for message in simulated if message.part == 1
    )
    assert Counter((data, attributes["event_id"], attributes.get("event_type")) for data, attributes in second) == (
        Counter((message.data, message.event_id, message.event_type) for message in simulated if message.part == 2)
    )
    silent = {(event_type, END - timedelta(hours=n)) for event_type in EVENT_TYPES for n in (1, 2, 3)}
    reports = stack.reports(len(silent | set(expected(7, 3_000, 3, END))) + len(silent))
    assert len({report.id for report in reports}) == len(reports)
    for event_type in {message.event_type or "" for message in simulated} | set(EVENT_TYPES):
        for hour in (END - timedelta(hours=n) for n in (3, 2, 1)):
            ids = [
                message.event_id
                for message in simulated
                if (message.event_type or "") == event_type and hour <= message.received_at < hour + timedelta(hours=1)
            ]
            of_hour = [report for report in reports if (report.event_type, report.hour) == (event_type, hour)]
            assert total(report.messages for report in of_hour) == Tally.of_ids(ids)
            assert total(report.distinct for report in of_hour) == Tally.of_ids(set(ids))
            assert of_hour or not (ids or event_type in EVENT_TYPES)
