"""Stored objects that are damaged, gone or foreign: named, left as they are, and in nobody else's way."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from pipelines import reload
from schemas.buckets import DEAD_LETTERS, HOUR, Bucket
from storage.tables.base import TablesError
from storage.tables.duckdb_file import DuckDBFile
from tests.support.delivery import LAST_HOUR, World, search

pytestmark = pytest.mark.slow

IN_HOUR = LAST_HOUR + timedelta(minutes=5)
BEFORE = IN_HOUR - 30 * HOUR
"""Out of the horizon: what belongs to hours within it has to ask the damaged bucket, and waits for it to be mended."""
FOLDER = Bucket("search_made", LAST_HOUR).folder
TAP = b'{"x": 1}', {"event_type": "tap", "event_id": "t", "received_at": IN_HOUR.isoformat()}


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


def receipt(folder: Path) -> Path:
    return folder / "_RECEIPT.json"


def change(folder: Path, **values: object) -> None:
    receipt(folder).write_text(json.dumps({**json.loads(receipt(folder).read_text()), **values}))


def lose_receipt_and_version(folder: Path) -> None:
    receipt(folder).unlink()
    cut(folder / "_receipts" / "000001.json")


def index(folder: Path) -> Path:
    [file] = folder.glob("part-*.ids")
    return file


def fail_once(world: World) -> str:
    """What a run that ends with an error says."""
    with pytest.raises(TablesError) as error:
        world.deliver()
    return str(error.value)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda folder: cut(receipt(folder)), "_RECEIPT.json can't be read"),
        (lambda folder: change(folder, version="2"), "_RECEIPT.json can't be read"),
        (lambda folder: change(folder, hour="2026-01-31T09:00:00Z"), "_RECEIPT.json is another bucket's receipt"),
        (lose_receipt_and_version, "000001.json can't be read"),
        (lambda folder: cut(index(folder)), "is not the index that its receipt lists"),
        (lambda folder: index(folder).unlink(), "no object"),
    ],
    ids=["cut receipt", "wrong type", "another's receipt", "cut version", "corrupted index", "index gone"],
)
def test_a_damaged_bucket_is_named_and_keeps_its_messages_and_the_others_are_delivered(
    world: World, damage: Callable[[Path], object], told: str
) -> None:
    world.publish(search("old", IN_HOUR), search("old", BEFORE))
    world.deliver()
    folder = world.buckets / FOLDER
    whole = content(folder)
    damage(folder)
    damaged = content(folder)
    world.publish(search("new", IN_HOUR), search("new", BEFORE), TAP, (b"{", search("broken", IN_HOUR)[1]))

    complaint = fail_once(world)
    assert complaint.startswith("1 partition could not be loaded; all others were. Nothing is lost")
    assert told in complaint
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
    assert world.left() == 0


def test_a_foreign_file_is_left_alone_and_in_nobodys_way(world: World) -> None:
    world.publish(search("old", IN_HOUR))
    world.deliver()
    foreign = [world.buckets / FOLDER / "notes.txt", world.buckets / "events/search_made/notes.txt", world.buckets / "x.avro"]
    for file in foreign:
        file.write_text("n")
    world.publish(search("new", IN_HOUR))
    assert world.deliver() == 0
    assert [row["event_id"] for row in world.rows("search_made")] == ["new", "old"]
    assert [file.read_text() for file in foreign] == ["n"] * 3


def test_a_reload_names_a_damaged_receipt_and_loads_the_others(world: World) -> None:
    world.publish(search("a", IN_HOUR), search("b", BEFORE))
    world.deliver()
    world.tables.unlink()
    cut(receipt(world.buckets / FOLDER))
    span = f"--hours={BEFORE:%Y-%m-%dT%H}..{LAST_HOUR:%Y-%m-%dT%H}"
    stores = [f"--buckets={world.buckets}", f"--tables={world.tables}", f"--contracts={world.contracts}"]
    with pytest.raises(TablesError, match="1 partition could not be loaded; all others were") as error:
        reload.main([*stores, span])
    DuckDBFile(world.tables).close()
    assert "_RECEIPT.json can't be read" in str(error.value)
    assert world.query("SELECT event_id FROM search_made") == [("b",)]
