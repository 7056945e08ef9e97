"""Stored objects that are damaged, deleted or unexpected are named and left alone, and block no other bucket."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from pipelines import reload
from schemas.buckets import DEAD_LETTERS, HOUR, Bucket
from storage.tables.base import TableStoreError
from storage.tables.duckdb_file import DuckDBFile
from tests.support.clock import LAST_HOUR
from tests.support.delivery import World, search

pytestmark = pytest.mark.integration

IN_HOUR = LAST_HOUR + timedelta(minutes=5)
BEFORE = IN_HOUR - 30 * HOUR
"""Outside the dedup horizon: commits to hours within it read the damaged bucket, and wait until it is restored."""
FOLDER = Bucket("search_made", LAST_HOUR).folder
TAP = b'{"x": 1}', {"event_type": "tap", "event_id": "t", "received_at": IN_HOUR.isoformat()}


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


def manifest(folder: Path) -> Path:
    return folder / "_RECEIPT.json"


def change(folder: Path, **values: object) -> None:
    manifest(folder).write_text(json.dumps({**json.loads(manifest(folder).read_text()), **values}))


def lose_manifest_and_version(folder: Path) -> None:
    manifest(folder).unlink()
    cut(folder / "_receipts" / "000001.json")


def index(folder: Path) -> Path:
    [file] = folder.glob("part-*.ids")
    return file


def fail_once(world: World) -> str:
    """Run deliver, which must fail, and return its error."""
    with pytest.raises(TableStoreError) as error:
        world.deliver()
    return str(error.value)


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda folder: cut(manifest(folder)), "_RECEIPT.json can't be read"),
        (lambda folder: change(folder, version="2"), "_RECEIPT.json can't be read"),
        (lambda folder: change(folder, hour="2026-01-31T09:00:00Z"), "_RECEIPT.json is another bucket's manifest"),
        (lose_manifest_and_version, "000001.json can't be read"),
        (lambda folder: cut(index(folder)), "is not the index that its manifest lists"),
        (lambda folder: index(folder).unlink(), "no object"),
    ],
    ids=["cut manifest", "wrong type", "another's manifest", "cut version", "corrupted index", "index gone"],
)
def test_deliver__damaged_bucket(world: World, damage: Callable[[Path], object], problem: str) -> None:
    """A damaged bucket is named and its messages are kept; all other buckets are delivered."""
    world.publish(search("old", IN_HOUR), search("old", BEFORE))
    world.deliver()
    folder = world.storage / FOLDER
    whole = content(folder)
    damage(folder)
    damaged = content(folder)
    world.publish(search("new", IN_HOUR), search("new", BEFORE), TAP, (b"{", search("broken", IN_HOUR)[1]))

    complaint = fail_once(world)
    assert complaint.startswith("1 partition could not be loaded; all others were. No event is lost")
    assert problem in complaint
    assert FOLDER in complaint
    assert content(folder) == damaged
    assert [row["event_id"] for row in world.rows(DEAD_LETTERS)] == ["broken"]
    rows = world.query("SELECT event_id FROM search_made WHERE received_at < $1 ORDER BY 1".replace("$1", f"'{LAST_HOUR}'"))
    assert rows == [("new",), ("old",)]
    assert world.query("SELECT event_id FROM tap") == [("t",)]

    for path, data in whole.items():
        path.write_bytes(data)
    world.deliver()
    assert world.query("SELECT event_id FROM search_made ORDER BY received_at, event_id") == [("new",), ("old",)] * 2
    assert world.undelivered() == 0


def test_deliver__unexpected_file(world: World) -> None:
    """An unexpected file is left alone and disturbs nothing."""
    world.publish(search("old", IN_HOUR))
    world.deliver()
    unexpected = [
        world.storage / FOLDER / "notes.txt",
        world.storage / "events/search_made/notes.txt",
        world.storage / "x.avro",
    ]
    for file in unexpected:
        file.write_text("n")
    world.publish(search("new", IN_HOUR))
    assert world.deliver() == 0
    assert [row["event_id"] for row in world.rows("search_made")] == ["new", "old"]
    assert [file.read_text() for file in unexpected] == ["n"] * 3


def test_reload__damaged_manifest(world: World) -> None:
    """A reload names a damaged manifest and loads the other partitions."""
    world.publish(search("a", IN_HOUR), search("b", BEFORE))
    world.deliver()
    world.tables.unlink()
    cut(manifest(world.storage / FOLDER))
    span = f"--hours={BEFORE:%Y-%m-%dT%H}..{LAST_HOUR:%Y-%m-%dT%H}"
    stores = [f"--storage={world.storage}", f"--tables={world.tables}", f"--contracts={world.contracts}"]
    with pytest.raises(TableStoreError, match="1 partition could not be loaded; all others were") as error:
        reload.main([*stores, span])
    DuckDBFile(world.tables).close()
    assert "_RECEIPT.json can't be read" in str(error.value)
    assert world.query("SELECT event_id FROM search_made") == [("b",)]
