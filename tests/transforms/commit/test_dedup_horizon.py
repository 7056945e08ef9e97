"""An id is delivered once within the horizon, in whatever hour its copies come, and whoever commits at the same time."""

from __future__ import annotations

import shutil
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Any

import fastavro
import orjson
import pytest

from schemas.buckets import DEAD_LETTERS, HOUR, Bucket
from schemas.fingerprints import id_hash
from schemas.outcomes import Outcome
from schemas.row_schemas import encoder, row_schema
from schemas.shards import Shard
from storage.buckets.commit_log import Turn
from storage.buckets.committable import CLOSE_CHECK, Committable, combine
from storage.buckets.id_index import IdIndex, Lookup, digest_of, index_entry
from storage.buckets.manifest import Manifest
from storage.buckets.manifest_store import finished_receipt
from storage.objects.base import Stored, StoreError
from storage.objects.local import Directory
from tests.support.contracts import contract_of, field
from transforms.commit.commit import commit
from transforms.decode.packs import Pack, label_of
from transforms.dedup.delivered_index import DeliveredIndex, DeliveredIndexes
from transforms.write import stage as contributing
from transforms.write.stage import stage_records

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
DAY = timedelta(hours=24)
SCHEMA = row_schema(contract_of(field("x", "long"), field("raw", ["null", "bytes"], default=None)))
WHOLE = Shard(0, 1)


@pytest.fixture
def new_id() -> Callable[[], str]:
    numbers = count()
    return lambda: f"{next(numbers):032x}"


@pytest.fixture
def store(tmp_path: Path) -> Directory:
    return Directory(tmp_path)


class Blind(DeliveredIndex):
    """Knows of nothing, as if all had been delivered while a process wrote."""

    def find(self, turn: Turn, own: Manifest, shard: Shard, entries: bytes) -> Lookup:
        return IdIndex(self.horizon).find(own.bucket.hour, entries)


class Process:
    """What one process knows and does: nothing in memory is shared with another."""

    def __init__(self, store: Directory, new_id: Callable[[], str], horizon: timedelta = DAY) -> None:
        self.store, self.new_id = store, new_id
        self.delivered = DeliveredIndexes(store, horizon)

    def write(self, hour: datetime, *events: tuple[str, int], blind: bool = True, late: int = 0) -> Committable:
        """A committable of events (id, x) that were received `late` microseconds after the hour began."""
        rows = [self.row(hour + timedelta(microseconds=late), *event) for event in events]
        entries = [index_entry(id_hash(one), late, digest_of(b"%d" % x)) for one, x in events]
        pack = Pack.of(self.new_id(), label_of("thing"), entries, [encoder(SCHEMA)(row) for row in rows])
        delivered = Blind(self.store, "thing", DAY) if blind else self.delivered.of("thing")
        return stage_records(self.store, Bucket("thing", hour), WHOLE, [pack.to_bytes()], SCHEMA, delivered)

    def row(self, moment: datetime, event_id: str, x: int) -> dict[str, Any]:
        row = {"event_id": event_id, "event_type": "thing", "schema_version": 1, "received_at": moment, "sent_at": None}
        own = {"x": x, "raw": b"\x00\xff"}
        return {
            **row,
            "message_id": f"m-{event_id}-{x}-{moment}",
            "unknown_fields": '{"y":{"z":1}}',
            "skewed_from": None,
            **own,
        }

    def commit(self, hour: datetime, committable: Committable) -> Manifest:
        bucket = Bucket("thing", hour)
        return commit(self.store, bucket, combine([committable]), False, lambda: NOON, self.new_id, self.delivered)[0]

    def deliver(self, hour: datetime, *events: tuple[str, int], blind: bool = True, late: int = 0) -> Manifest:
        return self.commit(hour, self.write(hour, *events, blind=blind, late=late))


def rows(store: Directory, stream: str = "thing") -> list[dict[str, Any]]:
    """All rows that the stream's manifests list."""
    found: list[Any] = []
    folder = DEAD_LETTERS if stream == DEAD_LETTERS else f"events/{stream}"
    for name in store.list(f"{folder}/"):
        if name.endswith("_RECEIPT.json"):
            manifest = Manifest.from_json(store.read(name)[0], name)
            for data_file in manifest.data_files:
                with store.open(f"{manifest.bucket.folder}/{data_file.name}") as file:
                    found += fastavro.reader(file)
    return found


def delivered(store: Directory) -> list[tuple[str, datetime]]:
    return sorted((row["event_id"], row["received_at"]) for row in rows(store))


def balance(manifest: Manifest) -> tuple[int, int, int]:
    counters = manifest.counters["thing"]
    assert counters[Outcome.RECEIVED] == counters[Outcome.DELIVERED] + counters[Outcome.DUPLICATE]
    return counters[Outcome.RECEIVED].count, counters[Outcome.DELIVERED].count, counters[Outcome.DUPLICATE].count


@pytest.mark.parametrize("blind", [True, False], ids=["found at the commit", "found by the writer"])
@pytest.mark.parametrize("first", [NOON, NOON + HOUR], ids=["then later", "then earlier"])
def test_an_event_that_comes_again_in_another_hour_is_a_duplicate(store, new_id, first: datetime, blind: bool) -> None:
    second = NOON + HOUR if first == NOON else NOON
    Process(store, new_id).deliver(first, ("a", 1), ("b", 1))
    manifest = Process(store, new_id).deliver(second, ("b", 1), ("c", 1), blind=blind)
    assert delivered(store) == sorted([("a", first), ("b", first), ("c", second)])
    assert balance(manifest) == (2, 1, 1)


def test_the_horizon_counts_from_the_first_delivery_to_the_microsecond(store, new_id) -> None:
    process = Process(store, new_id, timedelta(hours=2))
    process.deliver(NOON, ("a", 1), late=7)
    assert balance(process.deliver(NOON + 2 * HOUR, ("a", 1), late=6)) == (1, 0, 1)
    assert balance(process.deliver(NOON + 2 * HOUR, ("a", 1), late=7)) == (2, 1, 1)


def test_an_id_of_two_types_is_two_events(store, new_id) -> None:
    process = Process(store, new_id)
    process.deliver(NOON, ("a", 1))
    own = Manifest(Bucket("other", NOON))
    assert (
        not process.delivered.of("other")
        .find(Turn(), own, WHOLE, index_entry(id_hash("a"), 0, digest_of(b"1")))
        .delivered.any()
    )


@pytest.mark.parametrize("blind", [True, False], ids=["found at the commit", "found by the writer"])
@pytest.mark.parametrize("hours", [0, 1])
def test_another_payload_under_a_delivered_id_is_a_dead_letter_with_all_it_says(store, new_id, hours, blind) -> None:
    process, second = Process(store, new_id), NOON + hours * HOUR
    process.deliver(NOON, ("a", 1))
    manifest = process.deliver(second, ("a", 2), ("b", 1), blind=blind)
    assert {row["event_id"]: row["x"] for row in rows(store)} == {"a": 1, "b": 1}
    [dead_letter] = rows(store, DEAD_LETTERS)
    assert (dead_letter["reason"], dead_letter["stage"], dead_letter["event_id"]) == ("conflicting_payload", "deduplicate", "a")
    assert orjson.loads(dead_letter["data"]) == {"x": 2, "raw": "AP8=", "y": {"z": 1}}
    assert dead_letter["attributes"]["received_at"] == second.isoformat().replace("+00:00", "Z")
    dead = finished_receipt(store, Bucket(DEAD_LETTERS, second))
    assert {way: tally.count for way, tally in dead.counters["thing"].items()} == {Outcome.RECEIVED: 1, Outcome.DEAD_LETTER: 1}
    assert dead.report().reasons == {"thing": {"conflicting_payload": 1}}
    assert balance(manifest)[0] == (1 if hours else 2)


def test_two_payloads_in_one_file_conflict_too(store, new_id) -> None:
    manifest = Process(store, new_id).deliver(NOON, ("a", 1), ("a", 1), ("a", 2))
    assert [row["x"] for row in rows(store)] == [1]
    assert len(rows(store, DEAD_LETTERS)) == 1
    assert balance(manifest) == (2, 1, 1)


def test_a_commit_that_is_repeated_refuses_what_conflicts_once(store, new_id) -> None:
    process = Process(store, new_id)
    process.deliver(NOON, ("a", 1))
    committable = process.write(NOON, ("a", 2))
    for _ in range(2):
        Process(store, new_id).commit(NOON, committable)
    assert len(rows(store, DEAD_LETTERS)) == 1
    dead = finished_receipt(store, Bucket(DEAD_LETTERS, NOON))
    assert dead.counters["thing"][Outcome.RECEIVED].count == 1


def test_processes_that_commit_to_different_hours_at_once_deliver_no_id_twice(store, new_id) -> None:
    """Each has a memory of its own, and found nothing when it wrote."""
    committables = []
    for number in range(12):
        process, hour = Process(store, new_id), NOON + number % 4 * HOUR
        committables.append(
            (process, hour, process.write(hour, ("shared", 1), (f"own {number}", 1), (f"pair {number // 2}", 1)))
        )
    with ThreadPoolExecutor(len(committables)) as threads:
        list(threads.map(lambda committable: committable[0].commit(committable[1], committable[2]), committables))
    found = Counter(event_id for event_id, _ in delivered(store))
    assert set(found.values()) == {1}
    assert len(found) == 1 + 12 + 6
    manifests = [finished_receipt(store, Bucket("thing", NOON + hour * HOUR)) for hour in range(4)]
    assert sum(balance(manifest)[0] for manifest in manifests) == 36
    assert sum(balance(manifest)[1] for manifest in manifests) == len(found)


def test_a_process_without_memory_learns_from_indexes_and_opens_no_file(store, new_id, monkeypatch) -> None:
    Process(store, new_id).deliver(NOON, *((f"e{number}", 1) for number in range(100)))

    def opened(name: str) -> BytesIO:
        raise AssertionError(f"{name} was opened")

    process = Process(store, new_id)
    monkeypatch.setattr(
        store,
        "open",
        lambda name: opened(name) if name.startswith("events/") and name.endswith(".avro") else Directory.open(store, name),
    )
    manifest = process.deliver(NOON + HOUR, *((f"e{number}", 1) for number in range(50, 150)), blind=False)
    assert balance(manifest) == (100, 50, 50)


class Stops(Directory):
    """Fails at the n-th write of any kind and at all after it, as a process that is killed there."""

    left = 10_000

    def _spend(self) -> None:
        if self.left == 0:
            raise StoreError("killed")
        self.left -= 1

    def create(self, name: str, data: bytes):
        self._spend()
        return super().create(name, data)

    def replace(self, name: str, data: bytes, generation: int):
        self._spend()
        return super().replace(name, data, generation)

    def publish(self, source: str, target: str) -> None:
        self._spend()
        super().publish(source, target)

    def write(self, name: str, data: Any):
        self._spend()
        return super().write(name, data)


def test_wherever_a_process_is_killed_the_next_one_commits_to_another_hour_what_is_not_there(tmp_path, new_id) -> None:
    killed = 0
    for step in range(30):
        store = Directory(tmp_path / str(step))
        Process(store, new_id).deliver(NOON - HOUR, ("old", 1))
        dying = Stops(tmp_path / str(step))
        process = Process(dying, new_id)
        committable = process.write(NOON, ("old", 1), ("a", 1), ("b", 1))
        dying.left = step
        try:
            process.commit(NOON, committable)
        except StoreError:
            killed += 1
        Process(store, new_id).deliver(NOON + HOUR, ("a", 1), ("c", 1))
        Process(store, new_id).deliver(NOON, ("old", 1), ("a", 1), ("b", 1))
        commit(store, Bucket("thing", NOON), CLOSE_CHECK, True, lambda: NOON + DAY, new_id, Process(store, new_id).delivered)
        assert sorted(event_id for event_id, _ in delivered(store)) == ["a", "b", "c", "old"], step
    assert 8 <= killed < 30


def test_wherever_a_process_is_killed_no_message_is_both_delivered_and_refused_though_they_come_again_in_another_order(
    tmp_path, new_id
) -> None:
    for step in range(25):
        store, dying = Directory(tmp_path / str(step)), Stops(tmp_path / str(step))
        process = Process(dying, new_id)
        committable = process.write(NOON, ("a", 1), ("a", 2))
        dying.left = step
        with suppress(StoreError):
            process.commit(NOON, committable)
        Process(store, new_id).deliver(NOON, ("a", 2), ("a", 1), blind=False)
        exits = sorted(row["message_id"][:5] for row in [*rows(store), *rows(store, DEAD_LETTERS)])
        assert exits == ["m-a-1", "m-a-2"], step


def test_wherever_a_worker_is_killed_and_its_commit_tried_again_each_message_has_one_outcome(tmp_path, new_id) -> None:
    """As on Dataflow, which fixes a committable and gives it to another worker: the messages themselves do not come again."""
    killed = 0
    for step in range(30):
        store, dying = Directory(tmp_path / str(step)), Stops(tmp_path / str(step))
        Process(store, new_id).deliver(NOON - HOUR, ("c", 1))
        process = Process(dying, new_id)
        found_by_the_writer = process.write(NOON, ("a", 1), ("a", 2))
        found_at_the_commit = [
            process.write(NOON, ("a", 3)),
            process.write(NOON, ("b", 1)),
            process.write(NOON, ("b", 2), ("c", 2)),
        ]
        committable = combine([found_by_the_writer, *found_at_the_commit])
        dying.left = step
        try:
            process.commit(NOON, committable)
        except StoreError:
            killed += 1
        for _ in range(2):
            Process(store, new_id).commit(NOON, committable)
        exits = sorted(row["message_id"][:5] for row in [*rows(store), *rows(store, DEAD_LETTERS)])
        assert exits == ["m-a-1", "m-a-2", "m-a-3", "m-b-1", "m-b-2", "m-c-1", "m-c-2"], step
    assert 12 <= killed < 30


def test_a_bucket_that_was_deleted_does_not_come_back_by_itself_and_can_be_delivered_again(store, new_id) -> None:
    Process(store, new_id).deliver(NOON, ("a", 1))
    for path in sorted(Path(store.uri, "events").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    Process(store, new_id).deliver(NOON + HOUR, ("b", 1))
    assert delivered(store) == [("b", NOON + HOUR)]
    Process(store, new_id).deliver(NOON, ("a", 1))
    assert delivered(store) == [("a", NOON), ("b", NOON + HOUR)]


def test_wherever_a_process_was_killed_hours_that_are_deleted_later_can_be_delivered_again(tmp_path, new_id) -> None:
    for left in count():
        store, stops = Directory(tmp_path / f"{left}"), Stops(tmp_path / f"{left}")
        process = Process(stops, new_id)
        committable = process.write(NOON, ("a", 1))
        stops.left = left
        with suppress(StoreError):
            process.commit(NOON, committable)
        Process(store, new_id).commit(NOON, CLOSE_CHECK)
        Process(store, new_id).deliver(NOON, ("a", 1), blind=False)
        shutil.rmtree(Path(store.uri, "events"))
        Process(store, new_id).deliver(NOON, ("a", 1), blind=False)
        assert delivered(store) == [("a", NOON)]
        if stops.left:
            return


def test_what_a_process_remembers_follows_what_others_commit_without_reading_all_anew(store, new_id, monkeypatch) -> None:
    long_lived = Process(store, new_id)
    for hour in range(5):
        long_lived.deliver(NOON + hour * HOUR, (f"mine {hour}", 1), blind=False)
    Process(store, new_id).deliver(NOON + 2 * HOUR, ("theirs", 1))
    names: list[str] = []
    read = Directory.read

    def noted(self: Directory, name: str) -> tuple[bytes, Stored]:
        names.append(name)
        return read(self, name)

    monkeypatch.setattr(Directory, "read", noted)
    manifest = long_lived.deliver(NOON + 6 * HOUR, ("theirs", 1), ("mine 4", 1), blind=False)
    assert balance(manifest) == (2, 0, 2)
    indexes = [name for name in names if name.endswith(".ids") and name.startswith("events/")]
    assert len(indexes) == 2  # theirs, and that of its own last commit


def test_a_writer_with_an_older_view_does_not_take_it_to_a_commit_of_its_process(store, new_id, monkeypatch) -> None:
    """It has read its bucket's manifest; then another process adds an id there, which a commit to the next hour asks for."""
    process = Process(store, new_id)
    committable = process.write(NOON + HOUR, ("shared", 1))
    asks, may_go_on = threading.Event(), threading.Event()
    read = Directory.read

    def stops(self: Directory, name: str) -> tuple[bytes, Stored]:
        if threading.current_thread() is not threading.main_thread() and name.startswith("staging/"):
            asks.set()
            assert may_go_on.wait(10)
        return read(self, name)

    def falls_behind(_: Directory, bucket: Bucket) -> Manifest:
        manifest = finished_receipt(store, bucket)
        monkeypatch.setattr(contributing, "finished_receipt", finished_receipt)
        Process(store, new_id).deliver(NOON, ("shared", 1))
        commits.append(threads.submit(process.commit, NOON + HOUR, committable))
        assert asks.wait(10)
        return manifest

    commits: list[Future[Manifest]] = []
    monkeypatch.setattr(Directory, "read", stops)
    monkeypatch.setattr(contributing, "finished_receipt", falls_behind)
    with ThreadPoolExecutor(1) as threads:
        process.write(NOON, ("other", 1), blind=False)
        may_go_on.set()
    assert balance(commits[0].result()) == (1, 0, 1)


def test_memory_is_bounded_by_the_window(store, new_id) -> None:
    process = Process(store, new_id, timedelta(hours=1))
    for hour in range(30):
        process.deliver(NOON + hour * HOUR, (f"e{hour}", 1), blind=False)
    index = process.delivered.of("thing")
    [loaded] = index._loaded.values()
    assert len(loaded.names) <= 3 + 9
    assert len(index._manifests) <= 3 + 9
    # What was forgotten is learned again when somebody asks.
    assert balance(process.deliver(NOON, ("e0", 1), ("new", 1), blind=False)) == (3, 2, 1)
