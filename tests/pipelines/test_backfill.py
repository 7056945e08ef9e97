"""Backfill and repair: the events that they restore from the archive, and the data that they leave alone."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from cli.command import UserError
from pipelines import backfill
from pipelines.command import run_command
from schemas.buckets import DEAD_LETTERS, HOUR, Bucket, hour_of
from storage.tables.duckdb_file import DuckDBFile
from tests.support.archive import Archived, write_archive
from tests.support.clock import CLOCK, LAST_HOUR
from tests.support.delivery import World, search
from transforms.recovery import archive_source

pytestmark = pytest.mark.integration

BEFORE = LAST_HOUR - 4 * HOUR
STREAMS = ("search_made", "tap", DEAD_LETTERS)


def broken(event_id: str, received_at: datetime) -> tuple[bytes, dict[str, str]]:
    return b"{", search(event_id, received_at)[1]


def traffic() -> list[tuple[bytes, dict[str, str]]]:
    """Messages of two hours, with silent ones between: events, a duplicate, broken ones, one without id, and another type."""
    first, second = BEFORE + timedelta(minutes=1), LAST_HOUR + timedelta(minutes=59)
    return [
        *(search(f"a{number}", first) for number in range(50)),
        search("a0", first),
        broken("b0", first),
        (b'{"words": "w", "results": 1}', {"event_type": "search_made", "received_at": first.isoformat()}),
        *(search(f"c{number}", second) for number in range(50)),
        broken("b1", second),
        (b'{"x": 1}', {"event_type": "tap", "event_id": "t", "received_at": second.isoformat()}),
    ]


def publish(world: World, *messages: tuple[bytes, dict[str, str]], report: bool = True) -> Path:
    """Publish messages, write them to the archive as Pub/Sub would, and report on them. Returns the archive file."""
    ids = world.publish(*messages)
    now = CLOCK.now()
    file = write_archive(
        world.folder / "archive",
        [Archived(*message, own, now, ordering_key="a key") for message, own in zip(messages, ids, strict=True)],
        block_bytes=500,
    )
    if report:
        report_on(world, messages, ids)
    return file


def report_on(world: World, messages: Iterable[tuple[bytes, dict[str, str]]], ids: list[str]) -> None:
    """Report on stamped messages, for both types in each hour."""
    ids_by_bucket: dict[tuple[str, datetime], list[str]] = {}
    for (_, attributes), own in zip(messages, ids, strict=True):
        hour = hour_of(datetime.fromisoformat(attributes["received_at"]))
        ids_by_bucket.setdefault((attributes["event_type"], hour), []).append(attributes.get("event_id", own))
    for hour in {hour for _, hour in ids_by_bucket}:
        for event_type in ("search_made", "tap"):
            world.report(event_type, hour, ids_by_bucket.get((event_type, hour), []), reporter=ids[0])


def run(world: World, first: datetime, last: datetime, *more: str) -> int:
    flags = [f"--archive={world.folder / 'archive'}", f"--hours={first:%Y-%m-%dT%H}..{last:%Y-%m-%dT%H}"]
    try:
        return backfill.main([*flags, *(flag for flag in world.deliver_flags() if "--subscription" not in flag), *more])
    finally:
        DuckDBFile(world.tables).close()


def refused(world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    """Run a backfill that must fail with status 2, as a process would, and return its text on standard error."""
    stores = [flag for flag in world.deliver_flags() if "--subscription" not in flag]
    span = f"--hours={BEFORE:%Y-%m-%dT%H}..{LAST_HOUR:%Y-%m-%dT%H}"
    monkeypatch.setattr(sys, "argv", ["backfill", f"--archive={world.folder / 'archive'}", span, *stores, *more])
    assert run_command(backfill.main) == 2
    DuckDBFile(world.tables).close()
    complaint = capsys.readouterr().err
    assert "Traceback" not in complaint
    return complaint


def stored_rows(world: World) -> dict[str, list[Any]]:
    """Return the rows of all files and of all tables, without values that differ between deliveries."""
    tables = {stream: world.query(f"SELECT * FROM {stream} ORDER BY message_id") for stream in STREAMS}
    return {stream: [world.rows(stream), tables[stream]] for stream in STREAMS}


def ids(world: World) -> dict[str, list[str]]:
    key = {stream: "message_id" if stream == DEAD_LETTERS else "event_id" for stream in STREAMS}
    found = {stream: [row[key[stream]] for row in world.rows(stream)] for stream in STREAMS}
    for stream in STREAMS:
        assert [row[0] for row in world.query(f"SELECT {key[stream]} FROM {stream} ORDER BY 1")] == found[stream]
    return found


def files(world: World) -> Mapping[Path, bytes]:
    """Return all files except those that only order commits."""
    found = (path for path in world.storage.rglob("*") if path.is_file() and not {".tmp", "turns"} & set(path.parts))
    return {path: path.read_bytes() for path in found}


def delete(world: World, *hours: datetime, partitions: bool = True) -> None:
    for hour in hours:
        for stream in STREAMS:
            shutil.rmtree(world.storage / Bucket(stream, hour).folder)
            if partitions:
                with duckdb.connect(world.tables) as db:
                    db.execute(f"DELETE FROM {stream} WHERE date_trunc('hour', received_at) = ?", [hour])


def test_backfill__complete_hours(world: World) -> None:
    """A backfill of complete hours changes no row, and the verdicts stay COMPLETE."""
    publish(world, *traffic())
    world.deliver()
    before = stored_rows(world)
    parts = {path for path in files(world) if path.suffix in (".avro", ".ids")}
    assert run(world, BEFORE, LAST_HOUR) == 0
    assert run(world, BEFORE, LAST_HOUR) == 0
    assert stored_rows(world) == before
    assert {path for path in files(world) if path.suffix in (".avro", ".ids")} == parts
    assert world.manifests("search_made")[BEFORE]["counts"]["search_made"] == {
        "received": 156,
        "delivered": 51,
        "duplicate": 105,
    }
    assert world.audit(f"--hours={BEFORE:%Y-%m-%dT%H}..{BEFORE:%Y-%m-%dT%H}") == 0
    assert world.audit(f"--hours={LAST_HOUR:%Y-%m-%dT%H}..{LAST_HOUR:%Y-%m-%dT%H}") == 0


@pytest.mark.parametrize("batch", [100_000, 40], ids=["one batch", "three"])
@pytest.mark.parametrize("partitions", [True, False], ids=["partitions emptied", "partitions left"])
def test_backfill__deleted_hours(world: World, partitions: bool, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deleted hours are rebuilt with the same ids and are COMPLETE."""
    monkeypatch.setattr(archive_source, "BATCH_MESSAGES", batch)
    publish(world, *traffic())
    world.deliver()
    before = ids(world)
    closed = {stream: set(world.manifests(stream)) for stream in STREAMS}
    delete(world, *(BEFORE + HOUR * number for number in range(5)), partitions=partitions)
    assert ids_in_files(world) == {stream: [] for stream in STREAMS}
    assert run(world, BEFORE, LAST_HOUR) == 0
    assert ids(world) == before
    assert {
        stream: {hour for hour, manifest in world.manifests(stream).items() if manifest["closed"]} for stream in STREAMS
    } == closed
    # A bucket's events count as arrived before its close, though they came in several batches.
    assert {manifest["late"] for stream in STREAMS for manifest in world.manifests(stream).values()} == {0}
    for hour in (BEFORE, LAST_HOUR):
        assert world.audit(f"--hours={hour:%Y-%m-%dT%H}..{hour:%Y-%m-%dT%H}") == 0


def ids_in_files(world: World) -> dict[str, list[str]]:
    return {stream: [row["message_id"] for row in world.rows(stream)] for stream in STREAMS}


def test_backfill__damaged_bucket(world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A damaged bucket is named, and all batches are delivered."""
    monkeypatch.setattr(archive_source, "BATCH_MESSAGES", 10)
    publish(world, *traffic())
    world.deliver()
    before = ids(world)
    delete(world, LAST_HOUR)
    manifest = world.storage / Bucket(DEAD_LETTERS, BEFORE).folder / "_RECEIPT.json"
    whole = manifest.read_bytes()
    manifest.write_bytes(whole[:-20])
    complaint = refused(world, monkeypatch, capsys)
    assert str(manifest) in complaint or manifest.parent.name in complaint
    assert manifest.read_bytes() == whole[:-20]
    manifest.write_bytes(whole)
    assert ids(world) == before


def test_backfill__hours_flag(world: World) -> None:
    publish(world, *traffic())
    world.deliver()
    delete(world, BEFORE, LAST_HOUR)
    before = files(world)
    assert run(world, BEFORE, BEFORE) == 0
    assert {row["received_at"] for row in world.rows("search_made")} == {BEFORE + timedelta(minutes=1)}
    assert not (world.storage / Bucket("search_made", LAST_HOUR).folder).exists()
    assert {path: data for path, data in files(world).items() if path in before} == before


def test_backfill__hour_of_an_event(
    world: World,
) -> None:
    """An event belongs to the hour that deliver gave it, and no archive file with such events is missed.

    The events are stamped long before publishing, within and beyond the allowed lateness; published without a stamp; and
    refused for their stamp.
    """
    lateness = "--allowed_lateness=2h"
    skewed, late = LAST_HOUR - 30 * HOUR, LAST_HOUR - HOUR
    unreadable = search("odd")
    unreadable[1]["received_at"] = "yesterday"
    messages = [search("skewed", skewed), search("late", late), search("plain"), unreadable]
    publish(world, *messages, report=False)
    world.deliver(lateness)
    before = stored_rows(world)
    now = hour_of(CLOCK.now())
    assert {row["event_id"]: hour_of(row["received_at"]) for row in world.rows("search_made")} == {
        "skewed": now,
        "late": late,
        "plain": now,
    }
    received_by_span = {(skewed, skewed): 0, (late, late): 1, (now, now): 3, (skewed, now): 4}
    for (first, last), number in received_by_span.items():
        before_it = received(world)
        assert run(world, first, last, lateness) == 0
        assert received(world) - before_it == number
    assert stored_rows(world) == before


def received(world: World) -> int:
    manifests = [manifest for stream in STREAMS for manifest in world.manifests(stream).values()]
    return sum(manifest["counts"].get("search_made", {}).get("received", 0) for manifest in manifests)


def test_backfill__broken_block(world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A broken block is named, and all other blocks and files are delivered."""
    moment = LAST_HOUR + timedelta(minutes=1)
    file = publish(world, *(search(f"event-{number:03}", moment) for number in range(100)), report=False)
    publish(world, search("of another file", moment), report=False)
    data = bytearray(file.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 8] = b"\xff" * 8
    file.write_bytes(data)
    (world.folder / "archive" / "notes.txt").write_text("not an Avro file")
    cut = publish(world, search("of a cut file", moment), report=False)
    cut.write_bytes(cut.read_bytes()[:-5])
    archive = {path: path.read_bytes() for path in (world.folder / "archive").iterdir()}

    complaint = refused(world, monkeypatch, capsys)
    assert f"{file.name}: the block at byte " in complaint
    assert "notes.txt is not a readable Avro file" in complaint
    assert f"{cut.name}: the block at byte " in complaint
    delivered = [row["event_id"] for row in world.rows("search_made")]
    assert "of another file" in delivered
    assert {"event-000", "event-099"} <= set(delivered)
    assert 85 <= len(delivered) < 101
    assert {path: path.read_bytes() for path in (world.folder / "archive").iterdir()} == archive
    # Events that the backfill could not read are delivered by deliver itself.
    world.deliver()
    assert len(world.rows("search_made")) == 102


def test_backfill__repair_by_ids(world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A repair delivers the listed events and changes nothing else."""
    moment = LAST_HOUR + timedelta(minutes=1)
    publish(world, search("a", moment), search("b", BEFORE), *traffic())
    world.deliver()
    lost = publish(world, search("lost", moment), search("lost too", moment), search("lost", moment + timedelta(hours=2)))
    assert world.undelivered() == 3
    # Other damage, which a repair must leave alone.
    (world.storage / Bucket(DEAD_LETTERS, BEFORE).success_name).unlink()
    shutil.rmtree(world.storage / Bucket("tap", LAST_HOUR).folder)
    before, rows = files(world), world.rows("search_made")
    (world.folder / "ids").write_text("search_made\tlost\n\n")
    assert run(world, LAST_HOUR, LAST_HOUR, f"--ids={world.folder / 'ids'}") == 0
    assert [row["event_id"] for row in world.rows("search_made")] == sorted([*(row["event_id"] for row in rows), "lost"])
    assert world.query("SELECT count(*) FROM search_made WHERE event_id = 'lost'") == [(1,)]
    folder = world.storage / Bucket("search_made", LAST_HOUR).folder
    changed = {path for path, data in files(world).items() if before.get(path) != data}
    assert {path for path in changed if folder not in path.parents} == set()
    assert {path for path in before if path not in files(world)} == set()
    assert {path.name for path in changed if path in before} == {"_RECEIPT.json"}

    (world.folder / "ids").write_text("search_made\tlost\nsearch_made\tnone such\n")
    assert "search_made none such: not in the archive" in refused(world, monkeypatch, capsys, f"--ids={world.folder / 'ids'}")
    assert lost.exists()


@pytest.mark.parametrize(
    ("text", "problem"), [("search_made lost\n", "ids, line 1"), ("a\tb\n\tx\nc\t\n", "ids, line 3"), ("\n", "lists no event")]
)
def test_backfill__unreadable_ids(world: World, text: str, problem: str) -> None:
    (world.folder / "ids").write_text(text)
    publish(world, search("a"), report=False)
    with pytest.raises(UserError, match=problem):
        run(world, LAST_HOUR, LAST_HOUR, f"--ids={world.folder / 'ids'}")


def test_backfill__folder_without_archive_files(world: World) -> None:
    with pytest.raises(UserError, match="no file can contain events of these hours"):
        run(world, LAST_HOUR, LAST_HOUR)
    assert not list(world.storage.glob("events/*"))
