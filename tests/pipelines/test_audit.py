"""The audit of real files and tables, each damaged in a different way."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import fastavro
import google_crc32c
import numpy as np
import pytest

from cli.command import UserError
from pipelines import audit
from pipelines.audit import parser
from schemas.audit_reports import DeliveredReport, PublishedReport
from schemas.buckets import DEAD_LETTERS, Bucket
from schemas.envelope import format_time, parse_time
from schemas.fingerprints import Tally, id_hash
from storage.buckets.duplicate_refs import entry, hour_number
from storage.buckets.id_index import IdIndex, Lookup, split
from storage.objects.base import StoreError
from storage.objects.local import Directory
from storage.tables.duckdb_file import DuckDBFile
from tests.support.clock import LAST_HOUR, PATIENCE
from tests.support.delivery import World, search
from tests.support.pubsub import publisher

pytestmark = pytest.mark.integration

GOOD_REPORT = json.loads(DeliveredReport(Bucket("search_made", LAST_HOUR), "line", 1, True, {}).to_json())
IN_HOUR = LAST_HOUR + timedelta(minutes=5)
BROKEN = (b"{", {"event_type": "search_made", "event_id": "broken", "received_at": IN_HOUR.isoformat()})


def folder(world: World, stream: str = "search_made") -> Path:
    return world.storage / Bucket(stream, LAST_HOUR).folder


def verdicts(world: World) -> dict[str, dict[str, Any]]:
    return {row["event_type"]: row for row in json.loads(world.verdicts.read_text())}


def deliver_some(world: World) -> None:
    """Deliver a and b, b published twice, and a broken event; report all of them, and that there were no taps."""
    world.publish(search("a", IN_HOUR), search("b", IN_HOUR), search("b", IN_HOUR), BROKEN)
    world.deliver()
    world.report("search_made", LAST_HOUR, ["a", "b", "b", "broken"])
    world.report("tap", LAST_HOUR, [])


def test_audit__complete(world: World) -> None:
    """Complete evidence gives COMPLETE in the file of verdicts and in the table."""
    deliver_some(world)
    assert world.audit() == 0
    found = verdicts(world)
    assert {kind: row["status"] for kind, row in found.items()} == {"search_made": "COMPLETE", "tap": "COMPLETE"}
    numbers = ("published", "received", "in_files", "in_table", "late", "duplicates", "dead_letters")
    assert [found["search_made"][name] for name in numbers] == [4, 4, 2, 2, 0, 1, 1]
    rows = world.query(f"SELECT {', '.join(numbers)}, status FROM verdicts WHERE event_type = 'search_made'")
    assert rows == [(4, 4, 2, 2, 0, 1, 1, "COMPLETE")]


def rewrite(file: Path, change: Callable[[list[Any]], list[Any]]) -> None:
    """Replace the rows of an Avro file."""
    with file.open("rb") as source:
        reader = fastavro.reader(source)
        rows, schema = list(reader), reader.writer_schema
    with file.open("wb") as target:
        fastavro.writer(target, schema, change(rows))


def data_file(world: World, stream: str = "search_made") -> Path:
    [file] = folder(world, stream).glob("part-*.avro")
    return file


A = "event_id = 'a'"


def change_words(rows: list[Any]) -> list[Any]:
    """Replace values under the same ids."""
    return [{**row, "words": "other"} for row in rows]


def index(world: World) -> Path:
    return data_file(world).with_suffix(".ids")


def swap_index(world: World) -> int:
    """Replace the data file's index and return the checksum of the new one."""
    other = index(world).read_bytes()[16:] + bytes(16)
    index(world).write_bytes(other)
    return int(google_crc32c.value(other))


def commit_again(world: World, damage: Callable[[World], int]) -> None:
    """Damage an index and list its new checksum in the manifest."""
    manifest = folder(world) / "_RECEIPT.json"
    value = json.loads(manifest.read_text())
    checksum = damage(world)
    [listed] = [listed for commit in value["commits"] for listed in commit["data_files"]]
    listed["index_crc32c"] = checksum
    manifest.write_text(json.dumps(value))


def change_manifest(world: World, **values: object) -> None:
    manifest = folder(world) / "_RECEIPT.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), **values}))


def sql(statement: str) -> Callable[[World], object]:
    """Return a change of the table that bypasses deliver."""

    def change(world: World) -> None:
        with duckdb.connect(world.tables) as db:
            db.execute(statement)

    return change


@pytest.mark.parametrize(
    ("damage", "status", "problem"),
    [
        (lambda w: data_file(w).unlink(), "UNKNOWN", "can't be read"),
        (lambda w: data_file(w).write_bytes(data_file(w).read_bytes()[:-20]), "UNKNOWN", "can't be read"),
        (lambda w: (folder(w) / "_RECEIPT.json").write_text("{"), "UNKNOWN", "_RECEIPT.json"),
        (lambda w: change_manifest(w, version="new"), "UNKNOWN", "_RECEIPT.json can't be read"),
        (lambda w: rewrite(data_file(w), lambda rows: rows[1:]), "UNKNOWN", "2 counted as delivered, 1 in the files"),
        (
            lambda w: rewrite(data_file(w), lambda rows: rows + rows[:1]),
            "UNKNOWN",
            "3 rows in the files have only 2 distinct ids",
        ),
        (lambda w: rewrite(data_file(w), change_words), "UNKNOWN", "its size or checksum differs from the manifest"),
        (lambda w: index(w).write_bytes(b""), "UNKNOWN", "does not contain the ids"),
        (lambda w: index(w).unlink(), "UNKNOWN", ".ids can't be read"),
        (lambda w: commit_again(w, swap_index), "UNKNOWN", "does not contain the ids"),
        (lambda w: commit_again(w, lambda _: 7), "UNKNOWN", ".ids is not the index that was committed"),
        (
            lambda w: (folder(w) / "part-x.avro").write_bytes(data_file(w).read_bytes()),
            "SURPLUS",
            "part-x.avro is in the bucket's folder, but in no manifest",
        ),
        (sql(f"DELETE FROM search_made WHERE {A}"), "MISSING", "2 in the files, 1 in the table"),
        (sql(f"INSERT INTO search_made SELECT * FROM search_made WHERE {A}"), "SURPLUS", "in the table have"),
        (sql(f"UPDATE search_made SET event_id = 'c' WHERE {A}"), "MISSING_AND_SURPLUS", "but with different ids"),
        (sql("DROP TABLE search_made"), "MISSING", "2 in the files, 0 in the table"),
        (sql("DELETE FROM dead_letters"), "MISSING", "dead letter of the hour is in the files, 0 in the table"),
        (lambda w: w.report("search_made", LAST_HOUR, ["lost"], 2), "MISSING", "5 messages were published, 4 received"),
    ],
)
def test_audit__each_fault(
    world: World, damage: Callable[[World], object], status: str, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each fault is found and named, and sets the exit status."""
    deliver_some(world)
    damage(world)
    assert world.audit() == 1
    row = verdicts(world)["search_made"]
    assert row["status"] == status
    assert problem in " ".join(row["findings"])
    assert f"search_made {row['hour']}: {status}" in capsys.readouterr().out
    assert verdicts(world)["tap"]["status"] == "COMPLETE"


def test_audit__damaged_dead_letters(world: World) -> None:
    """Dead letters whose bytes differ from the manifest make their hour UNKNOWN."""
    deliver_some(world)
    rewrite(data_file(world, DEAD_LETTERS), lambda rows: rows[1:])
    assert world.audit() == 1
    row = verdicts(world)["search_made"]
    assert row["status"] == "UNKNOWN"
    assert "1 dead letter was counted, 0 found in the files" in row["findings"]


def test_audit__manifest_of_another_bucket(world: World) -> None:
    deliver_some(world)
    (folder(world) / "_RECEIPT.json").write_bytes((folder(world, "tap") / "_RECEIPT.json").read_bytes())
    assert world.audit() == 1
    assert "is another bucket's manifest" in verdicts(world)["search_made"]["findings"][0]


def test_audit__listing_fails(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bucket that can't be listed is UNKNOWN, and the audit continues."""
    deliver_some(world)
    listing = Directory.list

    def fail(self: Directory, prefix: str, start: str = "") -> Iterator[str]:
        if prefix == f"{Bucket('search_made', LAST_HOUR).folder}/":
            raise StoreError("the store is tired")
        return listing(self, prefix, start)

    monkeypatch.setattr(Directory, "list", fail)
    assert world.audit() == 1
    assert verdicts(world)["search_made"]["status"] == "UNKNOWN"
    assert "the store is tired" in verdicts(world)["search_made"]["findings"]
    assert verdicts(world)["tap"]["status"] == "COMPLETE"


@pytest.mark.parametrize(
    ("hours_off", "findings"),
    [(0, []), (1, ["1 id was dropped as a duplicate of a row in another hour, which does not contain it"])],
    ids=["of its own hour", "of another hour"],
)
def test_audit__event_dropped_as_duplicate(
    world: World, monkeypatch: pytest.MonkeyPatch, hours_off: int, findings: list[str]
) -> None:
    """A valid event that deliver drops as a duplicate is missing, though all of deliver's counters add up."""

    def find(known: IdIndex, hour: datetime, entries: bytes) -> Lookup:
        repeated = np.array([index_entry.startswith(id_hash("b")) for index_entry in split(entries)], bool)
        return Lookup(repeated, np.zeros(len(repeated), bool), np.full(len(repeated), hour_number(hour) - hours_off))

    with monkeypatch.context() as patch:
        patch.setattr(IdIndex, "find", find)
        world.publish(search("a", IN_HOUR), search("b", IN_HOUR))
        world.deliver()
    world.report("search_made", LAST_HOUR, ["a", "b"])
    assert world.audit() == 1
    row = verdicts(world)["search_made"]
    assert (row["status"], row["received"], row["in_files"], row["duplicates"]) == ("MISSING", 2, 1, 1)
    assert row["findings"] == [*findings, "2 ids were published, 1 arrived"]


def test_audit__id_of_two_publishers(world: World) -> None:
    """An id that two publishers report gives UNKNOWN, since it could hide a loss."""
    world.publish(search("a", IN_HOUR), search("b", IN_HOUR), search("b", IN_HOUR))
    world.deliver()
    world.report("search_made", LAST_HOUR, ["a", "b"])
    world.report("search_made", LAST_HOUR, ["b"], reporter="other")
    assert world.audit() == 1
    assert verdicts(world)["search_made"]["status"] == "UNKNOWN"


def test_audit__loss_and_surplus_cancel(world: World) -> None:
    """A loss and a surplus event are found although every count is 2.

    Published were a and an event that was lost; a and b arrived.
    """
    world.publish(search("a", IN_HOUR), search("b", IN_HOUR))
    world.deliver()
    world.report("search_made", LAST_HOUR, ["a", "lost"])
    assert world.audit() == 1
    assert verdicts(world)["search_made"]["status"] == "MISSING_AND_SURPLUS"


def test_audit__redelivery_by_pubsub(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("transforms.pubsub.leases.Leases.acknowledge", lambda *_: None)
        deliver_some(world)
    world.deliver()
    assert world.audit() == 0
    assert verdicts(world)["search_made"]["received"] == 8


def test_audit__no_report_is_unknown(world: World) -> None:
    world.publish(search("a", IN_HOUR))
    world.deliver()
    assert world.audit() == 1
    assert verdicts(world)["search_made"]["status"] == "UNKNOWN"
    assert verdicts(world)["search_made"]["published"] is None


def test_audit__published_but_not_delivered(world: World) -> None:
    """An hour with published events and without a bucket is UNKNOWN."""
    deliver_some(world)
    earlier = LAST_HOUR - timedelta(hours=3)
    world.report("search_made", earlier, ["a"])
    assert world.audit(f"--hours={earlier:%Y-%m-%dT%H}..{earlier:%Y-%m-%dT%H}") == 1
    assert verdicts(world)["search_made"]["status"] == "UNKNOWN"


def test_audit__unused_stores(world: World) -> None:
    """Stores that deliver never wrote to are refused and not created, and no report is taken from Pub/Sub."""
    world.report("search_made", LAST_HOUR, ["a"], 2)
    with pytest.raises(UserError, match=r"storage: nothing was ever delivered here"):
        world.audit()
    assert not world.storage.exists()
    deliver_some(world)
    world.tables.rename(world.folder / "away.duckdb")
    with pytest.raises(UserError, match=r"tables.duckdb: nothing was ever delivered here"):
        world.audit()
    assert not world.tables.exists()
    (world.folder / "away.duckdb").rename(world.tables)
    world.verdicts.write_text("no verdicts")
    with pytest.raises(UserError, match="can't be updated"):
        world.audit()
    assert not (world.storage / "audit").exists()
    # The audits that failed have taken no report from Pub/Sub.
    world.verdicts.unlink()
    world.audit()
    assert verdicts(world)["search_made"]["published"] == 5


def test_main__writes_no_file_without_verdicts_flag(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    deliver_some(world)
    folder = world.folder / "current"
    folder.mkdir()
    monkeypatch.chdir(folder)
    flags = [f"--subscription={world.audit_subscription}", f"--storage={world.storage}", f"--tables={world.tables}"]
    assert audit.main(flags) == 0
    DuckDBFile(world.tables).close()
    assert list(folder.iterdir()) == []
    assert not world.verdicts.exists()
    assert world.query("SELECT status FROM verdicts WHERE event_type = 'search_made'") == [("COMPLETE",)]


def test_audit__committed_but_not_reported(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bucket whose run died between commit and report is judged from its manifest."""
    with monkeypatch.context() as patch:
        patch.setattr("transforms.report._Report.process", lambda *_: None)
        world.publish(search("a", IN_HOUR), search("b", IN_HOUR), search("b", IN_HOUR), BROKEN)
        world.deliver()
    world.report("search_made", LAST_HOUR, ["a", "b", "b", "broken"])
    assert world.audit() == 1
    found = {kind: (row["status"], row["findings"]) for kind, row in verdicts(world).items()}
    assert found == {"search_made": ("COMPLETE", []), "tap": ("UNKNOWN", ["no publisher has reported on this hour"])}


def test_audit__bucket_without_any_report(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour with a bucket but without any report gets a verdict.

    Its run died before it reported, and its client sends no reports.
    """
    with monkeypatch.context() as patch:
        patch.setattr("transforms.report._Report.process", lambda *_: None)
        world.publish(search("unseen", IN_HOUR - timedelta(hours=3)))
        world.deliver()
    deliver_some(world)
    assert world.audit() == 1
    rows = [row for row in json.loads(world.verdicts.read_text()) if row["status"] != "COMPLETE"]
    assert {row["findings"][0] for row in rows} == {"no publisher has reported on this hour"}
    assert LAST_HOUR - timedelta(hours=3) in {parse_time(row["hour"]) for row in rows}


def test_audit__event_type_named_dead_letters(world: World) -> None:
    """A client that sends the event type `dead_letters` does no harm."""
    world.publish((b"{}", {"event_type": "dead_letters", "event_id": "x", "received_at": IN_HOUR.isoformat()}))
    world.report("dead_letters", LAST_HOUR, ["x"])
    deliver_some(world)
    assert world.audit() == 0
    found = verdicts(world)
    assert {kind: row["status"] for kind, row in found.items()} == dict.fromkeys(
        ("dead_letters", "search_made", "tap"), "COMPLETE"
    )
    assert (found["dead_letters"]["published"], found["dead_letters"]["received"], found["dead_letters"]["in_files"]) == (
        1,
        1,
        0,
    )


def test_audit__new_version_of_a_verdict(world: World) -> None:
    """The newest version of a verdict wins, and needs no new report."""
    deliver_some(world)
    assert world.audit() == 0
    deleted = data_file(world)
    content = deleted.read_bytes()
    deleted.unlink()
    assert world.audit() == 1
    deleted.write_bytes(content)
    assert world.audit() == 0
    assert [row["version"] for row in verdicts(world).values()] == [3, 3]
    assert world.query("SELECT DISTINCT version, status FROM verdicts") == [(3, "COMPLETE")]


def test_audit__unexpected_file_among_reports(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """An unexpected file in the report log is named and not touched."""
    deliver_some(world)
    unexpected = world.storage / "audit" / "reports" / "notes.txt"
    unexpected.parent.mkdir(parents=True)
    unexpected.write_text("n")
    assert world.audit() == 0
    assert "audit/reports/notes.txt is not a file of reports and was ignored" in caplog.text
    assert unexpected.read_text() == "n"


def test_audit__redelivered_reports_count_once(world: World) -> None:
    deliver_some(world)
    world.report("search_made", LAST_HOUR, ["a", "b", "b", "broken"])
    assert world.audit() == 0


def test_audit__hours_flag(world: World) -> None:
    """Only the hours of `--hours` are judged; the other verdicts are kept."""
    deliver_some(world)
    world.audit()
    hour = f"{LAST_HOUR - timedelta(hours=5):%Y-%m-%dT%H}"
    assert world.audit(f"--hours={hour}..{hour}") == 1
    assert {row["version"] for row in verdicts(world).values()} == {1}


def test_audit__hours_without_reports(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """Hours of `--hours` without any report are named as UNKNOWN."""
    deliver_some(world)
    first = LAST_HOUR - timedelta(hours=2)
    assert world.audit(f"--hours={first:%Y-%m-%dT%H}..{LAST_HOUR:%Y-%m-%dT%H}") == 1
    assert f"UNKNOWN: 2 of 3 hours with neither a report nor a bucket, first {first:%Y-%m-%dT%H}" in capsys.readouterr().out
    assert {row["status"] for row in verdicts(world).values()} == {"COMPLETE"}
    assert world.audit(f"--hours={LAST_HOUR:%Y-%m-%dT%H}..{LAST_HOUR:%Y-%m-%dT%H}") == 0


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("2026-01-31T09..2026-01-31T08", "ends before it begins"),
        ("0001-01-01T00..2026-01-31T08", "not within"),
        ("2026-01-31T09..9999-12-31T23", "not within"),
        ("2020-01-31T09..2026-01-31T08", "more than 8784 hours"),
        ("2026-01-31T09", "not of the form"),
    ],
)
def test_parser__invalid_hours(text: str, problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--subscription=projects/p-1/subscriptions/name", "--storage=b", "--tables=t.duckdb", f"--hours={text}"]
    with pytest.raises(SystemExit) as end:
        parser().parse_args(flags)
    assert end.value.code == 2
    assert problem in capsys.readouterr().err


def put_on_audit_topic(world: World, data: bytes) -> str:
    with publisher(world.address) as client:
        return str(client.publish(world.audit_topic, data).result(timeout=PATIENCE))


FORGED: tuple[dict[str, Any], ...] = (
    {"version": "1"},
    {"bucket": "search_made/9999123123"},
    {"bucket": "../up/2026013109"},
    {"late": 10**30},
    {"reasons": {"\ud800": {}}},
    {"closed": None},
)


@pytest.mark.parametrize(
    "data", [b'{"report": "hello"}', b"[" * 100_000, *(json.dumps({**GOOD_REPORT, **change}).encode() for change in FORGED)]
)
def test_audit__message_is_no_report(
    world: World, data: bytes, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """A message that is no report is stored and named once, and changes no verdict."""
    message_id = put_on_audit_topic(world, data)
    deliver_some(world)
    assert world.audit() == 1
    folder = world.storage / "audit" / "unreadable"
    assert f"1 message could not be parsed as a report; see {folder}/" in capsys.readouterr().out
    assert (folder / message_id).read_bytes() == data
    assert message_id in caplog.text
    assert "hello" not in caplog.text
    assert {row["status"] for row in verdicts(world).values()} == {"COMPLETE"}
    assert world.audit() == 0


def test_audit__report_of_several_lines(world: World) -> None:
    """A report is stored on one line, however its JSON was formatted."""
    report = PublishedReport("other/1", "test", "tap", LAST_HOUR, Tally(), Tally())
    put_on_audit_topic(world, json.dumps(json.loads(report.to_json()), indent=4).encode())
    deliver_some(world)
    assert world.audit() == 0
    assert world.audit() == 0


EARLY = LAST_HOUR - timedelta(hours=30)


def deliver_skewed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deliver events of 30 hours ago.

    a arrives in time. b, twice, a broken event and one of an unknown type arrive after the allowed lateness.
    """
    unknown = (b"{}", {"event_type": "unheard", "event_id": "u", "received_at": EARLY.isoformat()})
    broken = (b"{", {"event_type": "search_made", "event_id": "x", "received_at": EARLY.isoformat()})
    world.publish(search("a", EARLY))
    world.deliver()
    world.publish(search("b", EARLY), search("b", EARLY), broken, unknown, search("c"))
    world.deliver("--allowed_lateness=1d")
    now = max(world.manifests("search_made"))
    world.report("search_made", EARLY, ["a", "b", "b", "x"])
    world.report("unheard", EARLY, ["u"])
    world.report("tap", EARLY, [])
    world.report("search_made", now, ["c"])
    world.report("tap", now, [])
    monkeypatch.setattr("pipelines.deliver.utc_now", lambda: now + timedelta(hours=1, seconds=1))
    world.deliver("--allowed_lateness=1d")


def by_hour(world: World) -> dict[tuple[str, str], tuple[str, list[str]]]:
    return {
        (row["event_type"], "early" if row["hour"] == format_time(EARLY) else "now"): (row["status"], row["findings"])
        for row in json.loads(world.verdicts.read_text())
    }


def test_audit__skewed_events(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Skewed events count for the hour that they were published for."""
    deliver_skewed(world, monkeypatch)
    assert world.audit() == 1
    found = by_hour(world)
    # The event of the unknown type was delivered to the later hour, which no report on this type covers.
    assert found.pop(("unheard", "now")) == ("UNKNOWN", ["no publisher has reported on this hour"])
    assert found == dict.fromkeys(
        (("search_made", "early"), ("tap", "early"), ("unheard", "early"), ("search_made", "now"), ("tap", "now")),
        ("COMPLETE", []),
    )
    # An audit of the early hour alone finds them too.
    world.verdicts.unlink()
    assert world.audit(f"--hours={EARLY:%Y-%m-%dT%H}..{EARLY:%Y-%m-%dT%H}") == 0
    assert len(by_hour(world)) == 3


def test_audit__skewed_event_lost_or_unreported(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A skewed event that was lost, and one that no publisher reported, are found."""
    deliver_skewed(world, monkeypatch)
    world.report("search_made", EARLY, ["lost"], 2)
    world.publish(search("nobody's", EARLY - timedelta(hours=1)))
    world.deliver("--allowed_lateness=1d")
    assert world.audit() == 1
    found = by_hour(world)
    assert found["search_made", "early"] == ("MISSING", ["4 ids were published, 3 arrived"])
    problem = "1 skewed event belongs to hours on which no publisher has reported"
    assert found["search_made", "now"] == ("UNKNOWN", [problem])


@pytest.mark.parametrize("damage", [Path.unlink, lambda file: rewrite(file, change_words)])
def test_audit__skewed_event_in_damaged_file(
    world: World, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], None]
) -> None:
    """A skewed event in a damaged file makes the hour UNKNOWN that it was published for."""
    deliver_skewed(world, monkeypatch)
    now = max(world.manifests("search_made"))
    [file] = (world.storage / Bucket("search_made", now).folder).glob("part-*.avro")
    damage(file)
    assert world.audit() == 1
    assert by_hour(world)["search_made", "early"][0] == "UNKNOWN"
    assert by_hour(world)["tap", "early"][0] == "COMPLETE"


BEFORE = LAST_HOUR - timedelta(hours=1)


def publish_in_two_hours(world: World) -> None:
    """Deliver a and b in one hour; a again, c, and a conflicting payload of b in the next one."""
    words, attributes = search("b", IN_HOUR)
    world.publish(search("a", BEFORE), search("b", BEFORE))
    world.deliver()
    world.publish(search("a", IN_HOUR), (words.replace(b"words of", b"other"), attributes), search("c", IN_HOUR))
    world.deliver()
    world.report("search_made", BEFORE, ["a", "b"])
    world.report("search_made", LAST_HOUR, ["a", "b", "c"])
    for hour in (BEFORE, LAST_HOUR):
        world.report("tap", hour, [])


def of_searches(world: World) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the verdicts on the searches of the two hours."""
    found = {row["hour"]: row for row in json.loads(world.verdicts.read_text()) if row["event_type"] == "search_made"}
    return found[format_time(BEFORE)], found[format_time(LAST_HOUR)]


def test_audit__id_published_in_two_hours(world: World) -> None:
    """An id that is published in two hours is COMPLETE in both."""
    publish_in_two_hours(world)
    assert world.audit() == 0
    before, row = of_searches(world)
    assert (before["status"], row["status"]) == ("COMPLETE", "COMPLETE")
    assert [row[name] for name in ("published", "received", "in_files", "duplicates", "dead_letters")] == [3, 3, 1, 1, 1]
    # An audit of the second hour alone finds the rows of the first one.
    world.verdicts.unlink()
    assert world.audit(f"--hours={LAST_HOUR:%Y-%m-%dT%H}..{LAST_HOUR:%Y-%m-%dT%H}") == 0


def test_audit__duplicate_in_a_closed_hour(world: World) -> None:
    """A duplicate for a closed hour gives it a new version, which is COMPLETE."""
    publish_in_two_hours(world)
    world.publish(search("c", BEFORE))
    world.deliver()
    world.report("search_made", BEFORE, ["c"], 2)
    assert world.audit() == 0
    assert [row["status"] for row in of_searches(world)] == ["COMPLETE", "COMPLETE"]


def first_hours_data_file(world: World) -> Path:
    [file] = (world.storage / Bucket("search_made", BEFORE).folder).glob("part-*.avro")
    return file


def elsewhere_file(world: World) -> Path:
    [file] = folder(world).glob("elsewhere-*.ids")
    return file


def forge(world: World, event_id: str) -> None:
    """Make the second hour claim, in its refs file and manifest, that the first one contains this id too."""
    data = elsewhere_file(world).read_bytes() + entry(id_hash(event_id), LAST_HOUR, hour_number(BEFORE))
    elsewhere_file(world).write_bytes(data)
    manifest = folder(world) / "_RECEIPT.json"
    value = json.loads(manifest.read_text())
    for commit in value["commits"]:
        for file in commit.get("elsewhere", ()):
            file.update(count=2, crc32c=google_crc32c.value(data))
    manifest.write_text(json.dumps(value))
    world.report("search_made", LAST_HOUR, [event_id], 2)


@pytest.mark.parametrize(
    ("damage", "expected", "problem"),
    [
        (lambda w: first_hours_data_file(w).unlink(), ("UNKNOWN", "UNKNOWN"), "no object"),
        (lambda w: rewrite(first_hours_data_file(w), lambda rows: rows[1:]), ("UNKNOWN", "UNKNOWN"), "its size or checksum"),
        (lambda w: first_hours_data_file(w).with_suffix(".ids").unlink(), ("UNKNOWN", "UNKNOWN"), "no object"),
        (lambda w: elsewhere_file(w).write_bytes(b""), ("COMPLETE", "UNKNOWN"), "elsewhere-"),
        (lambda w: elsewhere_file(w).unlink(), ("COMPLETE", "UNKNOWN"), "elsewhere-"),
        (
            lambda w: forge(w, "lost"),
            ("COMPLETE", "MISSING"),
            "1 id was dropped as a duplicate of a row in another hour, which does not",
        ),
    ],
)
def test_audit__other_hour_lacks_the_id(
    world: World, damage: Callable[[World], object], expected: tuple[str, str], problem: str
) -> None:
    """An hour is not COMPLETE if the other hour does not provably contain its duplicates."""
    publish_in_two_hours(world)
    damage(world)
    assert world.audit() == 1
    before, row = of_searches(world)
    assert (before["status"], row["status"]) == expected
    assert problem in " ".join(row["findings"])
