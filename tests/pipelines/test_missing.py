"""Missing events, from the audit's finding to the repair; and backfill with archive, files and tables in the cloud."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from io import BytesIO
from typing import Any
from uuid import uuid4

import fastavro
import pytest

from cli.command import UserError
from pipelines import audit, backfill, deliver, missing
from schemas.buckets import DEAD_LETTERS, HOUR, Bucket
from storage.tables.duckdb_file import DuckDBFile
from tests.support.archive import Archived, archive_bytes, write_archive
from tests.support.clock import CLOCK, LAST_HOUR
from tests.support.delivery import World, search
from tests.support.gcs import GcsServer
from tests.support.tables import bigquery_store

pytestmark = pytest.mark.integration

BEFORE = LAST_HOUR - 2 * HOUR
BOTH = f"--hours={BEFORE:%Y-%m-%dT%H}..{LAST_HOUR:%Y-%m-%dT%H}"
CLOUD_BUCKET = "bucket-of-events"

Message = tuple[bytes, dict[str, str]]


def archived(messages: Sequence[Message], ids: Sequence[str]) -> list[Archived]:
    now = CLOCK.now()
    return [Archived(*message, own, now) for message, own in zip(messages, ids, strict=True)]


def lose(world: World, *messages: Message) -> list[str]:
    """Publish messages and pull them from the subscription, as a deliver that loses events would. Returns message ids."""
    ids = world.publish(*messages)
    assert world.undelivered() == len(ids)
    return ids


def cloud_name(at: datetime) -> str:
    return f"archive/prod_{at:%Y-%m-%d/%H_%M_%SZ}_{uuid4()}.avro"


def in_files(gcs: GcsServer) -> dict[str, list[str]]:
    """Return the event ids of every row in the files that manifests list, by stream."""
    found: dict[str, list[str]] = {"search_made": [], "tap": [], DEAD_LETTERS: []}
    for name in gcs.list(CLOUD_BUCKET, "data/"):
        folder, _, file = name.rpartition("/")
        if file == "_RECEIPT.json":
            manifest = json.loads(gcs.read(CLOUD_BUCKET, name))
            for data_file in (data_file for commit in manifest["commits"] for data_file in commit["data_files"]):
                rows: Any = fastavro.reader(BytesIO(gcs.read(CLOUD_BUCKET, f"{folder}/{data_file['name']}")))
                found[manifest["stream"]] += [row["event_id"] for row in rows]
    return {stream: sorted(ids) for stream, ids in found.items()}


def test_missing__names_and_repairs(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """Events that the audit finds missing are listed by id and repaired."""
    first, second = BEFORE + timedelta(minutes=1), LAST_HOUR + timedelta(minutes=1)
    broken = (b"{", search("broken", second)[1])
    delivered = [search("a", first), search("b", second), (b"{", search("x", second)[1])]
    # A duplicate in another hour, and a dead letter with a conflicting payload: neither is missing.
    delivered += [search("a", second), (search("other")[0], search("b", second)[1])]
    lost = [search("lost", second), search("lost too", first), broken, (b"{}", {"received_at": second.isoformat()})]
    ids = world.publish(*delivered)
    world.deliver()
    lost_ids = lose(world, *lost)
    archive = world.folder / "archive"
    write_archive(archive, archived([*delivered, *lost], [*ids, *lost_ids]))
    world.report("search_made", LAST_HOUR, ["b", "x", "a", "b", "lost", "broken"])
    world.report("tap", LAST_HOUR, [])
    hour = f"--hours={LAST_HOUR:%Y-%m-%dT%H}..{LAST_HOUR:%Y-%m-%dT%H}"
    assert world.audit(hour) == 1
    assert "MISSING" in capsys.readouterr().out

    untouched = {path: path.stat().st_mtime_ns for path in world.storage.rglob("*") if path.is_file()}
    sources = [f"--archive={archive}", f"--storage={world.storage}"]
    assert missing.main([*sources, hour]) == 0
    named = capsys.readouterr().out
    assert named == f"\t{lost_ids[3]}\nsearch_made\tbroken\nsearch_made\tlost\n"
    assert {path: path.stat().st_mtime_ns for path in world.storage.rglob("*") if path.is_file()} == untouched

    (world.folder / "ids").write_text(named.split("\n", 1)[1])  # no report covers the event without a type
    flags = [flag for flag in world.deliver_flags() if "--subscription" not in flag]
    assert backfill.main([f"--archive={archive}", hour, *flags, f"--ids={world.folder / 'ids'}"]) == 0
    DuckDBFile(world.tables).close()
    assert {row["event_id"] for row in world.rows("search_made")} == {"a", "b", "lost"}
    assert {row["event_id"] for row in world.rows(DEAD_LETTERS)} == {"x", "b", "broken"}
    own_folders = {Bucket(stream, LAST_HOUR).folder for stream in ("search_made", DEAD_LETTERS)}
    changed = {path for path, before in untouched.items() if path.stat().st_mtime_ns != before}
    assert {str(path.parent.relative_to(world.storage)) for path in changed} - {"turns"} <= own_folders
    assert {path.name for path in changed if path.parent.name != "turns"} <= {"_RECEIPT.json"}
    assert world.audit(hour) == 0
    capsys.readouterr()
    missing.main([*sources, BOTH])
    assert capsys.readouterr().out == f"\t{lost_ids[3]}\nsearch_made\tlost too\n"


def test_missing__unreadable_files_and_ids(
    world: World, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A problem of the archive is logged once, and the error says how many there are and what to do."""
    archive = world.folder / "archive"
    messages = [search("a\nb", LAST_HOUR), search("plain", LAST_HOUR), search("with \x85 and \u2028", LAST_HOUR)]
    write_archive(archive, archived(messages, ["1", "2", "3"]))
    (archive / "notes.txt").write_text("no Avro")
    with pytest.raises(
        UserError,
        match=r"(?s)the list lacks events.*1 part of the archive, .*restore.*1 missing event has a line break or tab.*backfill",
    ) as raised:
        missing.main([f"--archive={archive}", f"--storage={world.storage}", BOTH])
    assert ("notes.txt is not a readable Avro" in caplog.text, "notes.txt" in str(raised.value)) == (True, False)
    named = capsys.readouterr().out
    (world.folder / "ids").write_bytes(named.encode())
    assert backfill.read_ids(world.folder / "ids") == {("search_made", "plain"), ("search_made", "with \x85 and \u2028")}
    with pytest.raises(UserError, match="no file can contain events of these hours"):
        missing.main([f"--archive={world.folder / 'none'}", f"--storage={world.storage}", BOTH])


def test_backfill__in_the_cloud(world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Hours deleted from Cloud Storage are rebuilt from an archive there, and a repair changes nothing else."""
    with bigquery_store(monkeypatch) as (store, _, gcs):
        stores = ["--storage=gs://bucket-of-events/data", "--tables=bigquery://project-1.events"]
        flags = [*stores, f"--contracts={world.contracts}", f"--audit_topic={world.audit_topic}"]
        archive = "--archive=gs://bucket-of-events/archive"
        messages = [search(f"{hour:%H}-{number}", hour) for hour in (BEFORE, LAST_HOUR) for number in range(20)]
        messages.append((b"{", search("broken", BEFORE)[1]))
        own = world.publish(*messages)
        for begin in range(0, len(messages), 15):
            batch = archived(messages[begin : begin + 15], own[begin : begin + 15])
            gcs.put(CLOUD_BUCKET, cloud_name(CLOCK.now()), archive_bytes(batch, 500))
        deliver.main([*flags, f"--subscription={world.subscription}"])
        before = in_files(gcs)
        assert len(before["search_made"]) == 40

        assert backfill.main([*flags, archive, BOTH]) == 0
        assert in_files(gcs) == before
        for stream in ("search_made", "tap", DEAD_LETTERS):
            for name in gcs.list(CLOUD_BUCKET, f"data/{Bucket(stream, BEFORE).folder}/"):
                gcs.delete(CLOUD_BUCKET, name)
        assert len(in_files(gcs)["search_made"]) == 20
        capsys.readouterr()
        assert missing.main([archive, stores[0], BOTH]) == 0
        assert len(capsys.readouterr().out.splitlines()) == 21
        assert backfill.main([*flags, archive, BOTH]) == 0
        assert in_files(gcs) == before

        lost = [search("lost", LAST_HOUR)]
        gcs.put(CLOUD_BUCKET, cloud_name(CLOCK.now()), archive_bytes(archived(lost, lose(world, *lost))))
        generations = gcs.generations(CLOUD_BUCKET)
        capsys.readouterr()
        missing.main([archive, stores[0], BOTH])
        (world.folder / "ids").write_text(capsys.readouterr().out)
        assert gcs.generations(CLOUD_BUCKET) == generations
        assert backfill.main([*flags, archive, BOTH, f"--ids={world.folder / 'ids'}"]) == 0
        folder = f"data/{Bucket('search_made', LAST_HOUR).folder}"
        changed = {name for name, number in generations.items() if gcs.generations(CLOUD_BUCKET).get(name) != number}
        # The last one is the test whether the store is writable.
        assert changed == {f"{folder}/_RECEIPT.json", "data/turns/search_made.json", "data/.tmp/writable"}
        assert in_files(gcs) == {**before, "search_made": sorted([*before["search_made"], "lost"])}

        for hour in (BEFORE, BEFORE + HOUR, LAST_HOUR):
            ids = [
                attributes["event_id"] for _, attributes in (*messages, *lost) if attributes["received_at"] == hour.isoformat()
            ]
            world.report("search_made", hour, ids)
            world.report("tap", hour, [])
            assert [row["event_id"] for row in store.rows("search_made", hour)] == sorted({*ids} - {"broken"})
        audit_flags = [*stores, f"--subscription={world.audit_subscription}", f"--verdicts={world.verdicts}", BOTH]
        assert audit.main(audit_flags) == 0
