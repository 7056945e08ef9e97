"""Stores under a stream: a damaged bucket or a failing table is named and skipped; a store that stays unreachable ends it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from schemas.buckets import HOUR, Bucket, hour_of
from tests.support.clock import CLOCK, LAST_HOUR, eventually
from tests.support.delivery import World, search
from tests.support.stores import Cloud
from tests.support.streams import streaming

pytestmark = pytest.mark.integration

IN_HOUR = LAST_HOUR + timedelta(minutes=5)
FAR = IN_HOUR - 30 * HOUR
"""Outside the dedup horizon."""
FOLDER = Bucket("search_made", LAST_HOUR).folder
TAP = b'{"x": 1}', {"event_type": "tap", "event_id": "t", "received_at": IN_HOUR.isoformat()}
SOON = "from transforms.pubsub import leases; leases.NACK_DELAY_SECONDS = 3"

IMPATIENT = """
from storage.objects.gcs import RETRY, CloudStorage
CloudStorage.__init__.__defaults__ = (None, RETRY.with_timeout(3.0))
"""
FAIL_TAP_LOADS = """
from storage.tables.base import TableStoreError
from storage.tables.duckdb_file import DuckDBFile
load = DuckDBFile.load
def refuse(self, job_id, table, *more):
    if table.name == "tap":
        raise TableStoreError("the table store is away")
    return load(self, job_id, table, *more)
DuckDBFile.load = refuse
"""

NOTE_FAILURES = """
from transforms.failures import FailureTracker
failed = FailureTracker.failed
def noted(self, name, *more, **named):
    with open("{failures}", "a") as file:
        print(name, file=file)
    failed(self, name, *more, **named)
FailureTracker.failed = noted
"""


def failures(world: World) -> Counter[str]:
    """How often a stream with NOTE_FAILURES has failed, by bucket."""
    file = world.folder / "failures"
    return Counter(file.read_text().splitlines() if file.exists() else [])


def delivered(world: World, stream: str = "search_made") -> list[str]:
    return [row["event_id"] for row in world.rows(stream)]


def in_table(world: World, table: str = "search_made") -> list[tuple[str]]:
    return world.query(f"SELECT event_id FROM {table} ORDER BY received_at, event_id")


def the_index(folder: Path) -> Path:
    [file] = folder.glob("part-*.ids")
    return file


def cut(file: Path) -> bytes:
    whole = file.read_bytes()
    file.write_bytes(whole[:-20])
    return whole


@pytest.mark.parametrize(
    ("find", "problem"),
    [
        (the_index, "is not the index that its manifest lists"),
        (lambda folder: folder / "_RECEIPT.json", "_RECEIPT.json can't be read"),
    ],
    ids=["corrupted index", "cut manifest"],
)
def test_stream__damaged_bucket(world: World, prism_binary: str, find: Callable[[Path], Path], problem: str) -> None:
    """A damaged bucket keeps its messages until it is restored, and the stream continues."""
    world.publish(search("old", IN_HOUR))
    world.deliver()
    file = find(world.storage / FOLDER)
    whole = cut(file)
    damaged = file.read_bytes()
    settings = SOON + NOTE_FAILURES.format(failures=world.folder / "failures")
    with streaming(world, prism_binary, "--flush_every=1s", settings=settings) as running:
        world.publish(search("new", IN_HOUR), TAP)
        assert eventually(lambda: delivered(world, "tap") == ["t"]), running.end()
        world.publish(search("far", FAR))
        assert eventually((world.storage / Bucket("search_made", hour_of(FAR)).folder / "_RECEIPT.json").exists)
        assert eventually(lambda: failures(world).total() >= 3), running.end()  # it is retried
        assert file.read_bytes() == damaged
        file.write_bytes(whole)
        assert eventually(lambda: delivered(world) == ["far", "new", "old"]), running.end()
        status, stderr = running.end()
    assert status == 0, stderr
    assert stderr.count(problem) == 1
    assert f"{FOLDER}: " in stderr
    assert "skipping this bucket, will retry" in stderr
    assert f"{FOLDER}: recovered" in stderr
    assert "Traceback" not in stderr
    assert [event_id for (event_id,) in in_table(world)] == ["far", "new", "old"]
    assert world.undelivered() == 0


def test_stream__ends_with_a_damaged_bucket(world: World, prism_binary: str) -> None:
    """A stream that ends with a damaged bucket and a failing table names both; the next run delivers the rest."""
    world.publish(search("old", IN_HOUR), search("old", FAR))
    world.deliver()
    index = the_index(world.storage / FOLDER)
    whole = cut(index)
    # The table of `tap` can't be loaded; its files are delivered nevertheless.
    settings = SOON + FAIL_TAP_LOADS + NOTE_FAILURES.format(failures=world.folder / "failures")
    with streaming(world, prism_binary, "--flush_every=1s", settings=settings) as running:
        world.publish(search("new", IN_HOUR), TAP)
        assert eventually(lambda: delivered(world, "tap") == ["t"]), running.end()
        assert eventually(lambda: len(failures(world)) == 2), running.end()
        status, stderr = running.end()
    assert status == 2, stderr
    error = stderr.split("error: ")[1]
    assert error.startswith("2 buckets failed and were skipped; all others were delivered and loaded")
    assert "is not the index that its manifest lists" in error
    assert "the table store is away" in error
    assert "Traceback" not in stderr

    index.write_bytes(whole)
    CLOCK.advance(10)  # until nacked messages are redelivered
    assert world.deliver() == 0
    assert delivered(world) == ["new", "old", "old"]
    assert in_table(world) == [("old",), ("new",), ("old",)]
    assert in_table(world, "tap") == [("t",)]
    assert world.undelivered() == 0


def test_stream__object_store_unreachable(cloud: Cloud, prism_binary: str) -> None:
    """An object store that stays unreachable ends a stream with a clear error, and the next run delivers everything."""
    stores = [flag for flag in cloud.flags() if flag.startswith(("--storage", "--tables"))]
    with streaming(cloud.world, prism_binary, "--flush_every=1s", *stores, settings=IMPATIENT) as running:
        cloud.publish("a", "b")
        assert eventually(lambda: len(cloud.manifests()) == 2), running.end()
        cloud.gcs.fail_next(1_000_000, 503)
        cloud.publish("c", "d")
        status, stderr = running.wait()
    assert status == 2, stderr
    assert stderr.count("\nerror: ") == 1
    assert "gs://bucket-of-events/data" in stderr
    assert "What to do: check the network" in stderr
    assert "Traceback" not in stderr
    cloud.gcs.restore()
    assert cloud.run() == (0, "")
    manifests = cloud.manifests()
    for hour, ids in cloud.published.items():
        assert cloud.ids_in_files(manifests[hour]) == [row["event_id"] for row in cloud.store.rows("search_made", hour)] == ids
    assert cloud.world.undelivered() == 0
