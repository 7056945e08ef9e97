"""The audit against real files and tables, each damaged in a way of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import fastavro
import pytest

from schemas.buckets import DEAD_LETTERS, Bucket
from tests.support.delivery import LAST_HOUR, World, search
from tests.support.pubsub import publisher

pytestmark = pytest.mark.slow

IN_HOUR = LAST_HOUR + timedelta(minutes=5)
BROKEN = (b"{", {"event_type": "search_made", "event_id": "broken", "received_at": IN_HOUR.isoformat()})


def folder(world: World, stream: str = "search_made") -> Path:
    return world.buckets / Bucket(stream, LAST_HOUR).folder


def verdicts(world: World) -> dict[str, dict[str, Any]]:
    return {row["event_type"]: row for row in json.loads(world.verdicts.read_text())}


def deliver_some(world: World) -> None:
    """a and b delivered, b published twice, one broken; all reported, as is that there were no taps."""
    world.publish(search("a", IN_HOUR), search("b", IN_HOUR), search("b", IN_HOUR), BROKEN)
    world.deliver()
    world.report("search_made", LAST_HOUR, ["a", "b", "b", "broken"])
    world.report("tap", LAST_HOUR, [])


def test_what_is_all_there_is_complete_in_the_file_and_in_the_table(world: World) -> None:
    deliver_some(world)
    assert world.audit() == 0
    found = verdicts(world)
    assert {kind: row["status"] for kind, row in found.items()} == {"search_made": "COMPLETE", "tap": "COMPLETE"}
    numbers = ("published", "received", "in_files", "in_table", "late", "duplicates", "dead_letters")
    assert [found["search_made"][name] for name in numbers] == [4, 4, 2, 2, 0, 1, 1]
    rows = world.query(f"SELECT {', '.join(numbers)}, status FROM verdicts WHERE event_type = 'search_made'")
    assert rows == [(4, 4, 2, 2, 0, 1, 1, "COMPLETE")]


def rewrite(file: Path, change: Callable[[list[Any]], list[Any]]) -> None:
    """Puts other rows into an Avro file."""
    with file.open("rb") as source:
        reader = fastavro.reader(source)
        rows, schema = list(reader), reader.writer_schema
    with file.open("wb") as target:
        fastavro.writer(target, schema, change(rows))


def part(world: World, stream: str = "search_made") -> Path:
    [file] = folder(world, stream).glob("part-*.avro")
    return file


A = "event_id = 'a'"


def sql(statement: str) -> Callable[[World], object]:
    """A change of the table behind our backs."""

    def change(world: World) -> None:
        with duckdb.connect(world.tables) as db:
            db.execute(statement)

    return change


@pytest.mark.parametrize(
    ("damage", "status", "told"),
    [
        (lambda w: part(w).unlink(), "UNKNOWN", "can't be read"),
        (lambda w: part(w).write_bytes(part(w).read_bytes()[:-20]), "UNKNOWN", "can't be read"),
        (lambda w: (folder(w) / "_RECEIPT.json").write_text("{"), "UNKNOWN", "_RECEIPT.json"),
        (lambda w: rewrite(part(w), lambda rows: rows[1:]), "MISSING_AND_SURPLUS", "2 counted as delivered, 1 in the files"),
        (lambda w: rewrite(part(w), lambda rows: rows + rows[:1]), "SURPLUS", "3 rows in the files have only 2 ids"),
        (lambda w: (folder(w) / "part-x.avro").write_bytes(part(w).read_bytes()), "SURPLUS", "part-x.avro lies in the bucket"),
        (sql(f"DELETE FROM search_made WHERE {A}"), "MISSING", "2 in the files, 1 in the table"),
        (sql(f"INSERT INTO search_made SELECT * FROM search_made WHERE {A}"), "SURPLUS", "in the table have"),
        (sql(f"UPDATE search_made SET event_id = 'c' WHERE {A}"), "MISSING_AND_SURPLUS", "not the same ids"),
        (sql("DROP TABLE search_made"), "MISSING", "2 in the files, 0 in the table"),
        (sql("DELETE FROM dead_letters"), "MISSING", "dead letters"),
        (
            lambda w: rewrite(part(w, DEAD_LETTERS), lambda rows: rows[1:]),
            "MISSING_AND_SURPLUS",
            "1 dead letters were counted, 0 are",
        ),
        (lambda w: w.report("search_made", LAST_HOUR, ["lost"], 2), "MISSING", "5 messages were published, 4 received"),
    ],
)
def test_a_fault_is_found_named_and_makes_the_audit_fail(
    world: World, damage: Callable[[World], object], status: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    deliver_some(world)
    damage(world)
    assert world.audit() == 1
    row = verdicts(world)["search_made"]
    assert row["status"] == status
    assert told in " ".join(row["findings"])
    assert f"search_made {row['hour']}: {status}" in capsys.readouterr().out
    assert verdicts(world)["tap"]["status"] == "COMPLETE"


def test_a_loss_and_a_duplicate_that_cancel_are_found(world: World) -> None:
    """Everything counts to 2 everywhere; but what was published is a and lost, and what arrived is a and b."""
    world.publish(search("a", IN_HOUR), search("b", IN_HOUR))
    world.deliver()
    world.report("search_made", LAST_HOUR, ["a", "lost"])
    assert world.audit() == 1
    assert verdicts(world)["search_made"]["status"] == "MISSING_AND_SURPLUS"


def test_a_second_delivery_by_pubsub_is_no_alarm(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("transforms.pubsub.Leases.acknowledge", lambda _: 0)
        deliver_some(world)
    world.deliver()
    assert world.audit() == 0
    assert verdicts(world)["search_made"]["received"] == 8


def test_no_data_is_unknown(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert world.audit() == 1
    assert "UNKNOWN" in capsys.readouterr().out
    world.publish(search("a", IN_HOUR))
    world.deliver()
    assert world.audit() == 1
    assert verdicts(world)["search_made"]["status"] == "UNKNOWN"
    assert verdicts(world)["search_made"]["published"] is None


def test_what_was_published_and_never_delivered_is_not_complete(world: World) -> None:
    world.report("search_made", LAST_HOUR, ["a"])
    assert world.audit() == 1
    assert verdicts(world)["search_made"]["status"] == "UNKNOWN"


def test_the_newest_version_of_a_verdict_wins_and_needs_no_new_report(world: World) -> None:
    deliver_some(world)
    assert world.audit() == 0
    gone = part(world)
    kept = gone.read_bytes()
    gone.unlink()
    assert world.audit() == 1
    gone.write_bytes(kept)
    assert world.audit() == 0
    assert [row["version"] for row in verdicts(world).values()] == [3, 3]
    assert world.query("SELECT DISTINCT version, status FROM verdicts") == [(3, "COMPLETE")]


def test_reports_that_come_again_are_counted_once(world: World) -> None:
    deliver_some(world)
    world.report("search_made", LAST_HOUR, ["a", "b", "b", "broken"])
    assert world.audit() == 0


def test_only_the_hours_that_are_asked_for_are_judged_and_the_others_are_kept(world: World) -> None:
    deliver_some(world)
    world.audit()
    hour = f"{LAST_HOUR - timedelta(hours=5):%Y-%m-%dT%H}"
    assert world.audit(f"--hours={hour}..{hour}") == 1
    assert {row["version"] for row in verdicts(world).values()} == {1}


def test_a_message_that_is_no_report_is_kept_and_hurts_no_verdict(world: World, caplog: pytest.LogCaptureFixture) -> None:
    with publisher(world.address) as client:
        message_id = client.publish(world.audit_topic, b'{"report": "hello"}').result(timeout=30)
    deliver_some(world)
    assert world.audit() == 0
    assert (world.buckets / "audit" / "unreadable" / message_id).read_bytes() == b'{"report": "hello"}'
    assert message_id in caplog.text
