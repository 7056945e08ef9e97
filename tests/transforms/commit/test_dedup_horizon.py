"""An id is delivered once within the dedup horizon, in any hour and with concurrent commits."""

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
from tests.support.clock import PATIENCE
from tests.support.contracts import contract_of, field
from transforms.commit.commit import commit
from transforms.decode.packs import Pack, count_key_of
from transforms.dedup.delivered_index import DeliveredIndex, DeliveredIndexes
from transforms.write import stage
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
    """An index that finds nothing, as if all copies had been delivered while a process wrote its files."""

    def find(self, turn: Turn, own: Manifest, shard: Shard, entries: bytes) -> Lookup:
        return IdIndex(self.horizon).find(own.bucket.hour, entries)


class Process:
    """A process with its memory, which it shares with no other."""

    def __init__(self, store: Directory, new_id: Callable[[], str], horizon: timedelta = DAY) -> None:
        self.store, self.new_id = store, new_id
        self.delivered = DeliveredIndexes(store, horizon)

    def write(self, hour: datetime, *events: tuple[str, int], blind: bool = True, late: int = 0) -> Committable:
        """Stage a committable of events (id, x) that were received `late` microseconds after the hour began."""
        rows = [self.row(hour + timedelta(microseconds=late), *event) for event in events]
        entries = [index_entry(id_hash(event_id), late, digest_of(b"%d" % x)) for event_id, x in events]
        pack = Pack.of(self.new_id(), count_key_of("thing"), entries, [encoder(SCHEMA)(row) for row in rows])
        delivered = Blind(self.store, "thing", DAY) if blind else self.delivered.of("thing")
        return stage_records(self.store, Bucket("thing", hour), WHOLE, [pack.to_bytes()], SCHEMA, delivered)

    def row(self, moment: datetime, event_id: str, x: int) -> dict[str, Any]:
        """Build the row of an event."""
        row = {"event_id": event_id, "event_type": "thing", "schema_version": 1, "received_at": moment, "sent_at": None}
        fields = {"x": x, "raw": b"\x00\xff"}
        return {
            **row,
            "message_id": f"m-{event_id}-{x}-{moment}",
            "unknown_fields": '{"y":{"z":1}}',
            "skewed_from": None,
            **fields,
        }

    def commit(self, hour: datetime, committable: Committable) -> Manifest:
        bucket = Bucket("thing", hour)
        return commit(self.store, bucket, combine([committable]), False, lambda: NOON, self.new_id, self.delivered)[0]

    def deliver(self, hour: datetime, *events: tuple[str, int], blind: bool = True, late: int = 0) -> Manifest:
        return self.commit(hour, self.write(hour, *events, blind=blind, late=late))


def rows(store: Directory, stream: str = "thing") -> list[dict[str, Any]]:
    """Return all rows in the files that the stream's manifests list."""
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
    """Check that the counters balance and return (received, delivered, duplicate)."""
    counters = manifest.counters["thing"]
    assert counters[Outcome.RECEIVED] == counters[Outcome.DELIVERED] + counters[Outcome.DUPLICATE]
    return counters[Outcome.RECEIVED].count, counters[Outcome.DELIVERED].count, counters[Outcome.DUPLICATE].count


@pytest.mark.parametrize("blind", [True, False], ids=["found at the commit", "found by the writer"])
@pytest.mark.parametrize("first", [NOON, NOON + HOUR], ids=["then later", "then earlier"])
def test_commit__duplicate_in_another_hour(store, new_id, first: datetime, blind: bool) -> None:
    """An event that arrives again in a later or earlier hour is a duplicate."""
    second = NOON + HOUR if first == NOON else NOON
    Process(store, new_id).deliver(first, ("a", 1), ("b", 1))
    manifest = Process(store, new_id).deliver(second, ("b", 1), ("c", 1), blind=blind)
    assert delivered(store) == sorted([("a", first), ("b", first), ("c", second)])
    assert balance(manifest) == (2, 1, 1)


def test_commit__horizon_is_exact_to_a_microsecond(store, new_id) -> None:
    """The horizon is counted from the first delivery."""
    process = Process(store, new_id, timedelta(hours=2))
    process.deliver(NOON, ("a", 1), late=7)
    assert balance(process.deliver(NOON + 2 * HOUR, ("a", 1), late=6)) == (1, 0, 1)
    assert balance(process.deliver(NOON + 2 * HOUR, ("a", 1), late=7)) == (2, 1, 1)


def test_find__same_id_of_two_types(store, new_id) -> None:
    """The same id of two event types is two events."""
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
def test_commit__conflicting_payload(store, new_id, hours, blind) -> None:
    """Another payload under a delivered id becomes a dead letter that keeps all its fields."""
    process, second = Process(store, new_id), NOON + hours * HOUR
    process.deliver(NOON, ("a", 1))
    manifest = process.deliver(second, ("a", 2), ("b", 1), blind=blind)
    assert {row["event_id"]: row["x"] for row in rows(store)} == {"a": 1, "b": 1}
    [dead_letter] = rows(store, DEAD_LETTERS)
    assert (dead_letter["reason"], dead_letter["stage"], dead_letter["event_id"]) == ("conflicting_payload", "deduplicate", "a")
    assert orjson.loads(dead_letter["data"]) == {"x": 2, "raw": "AP8=", "y": {"z": 1}}
    assert dead_letter["attributes"]["received_at"] == second.isoformat().replace("+00:00", "Z")
    dead = finished_receipt(store, Bucket(DEAD_LETTERS, second))
    assert {outcome: tally.count for outcome, tally in dead.counters["thing"].items()} == {
        Outcome.RECEIVED: 1,
        Outcome.DEAD_LETTER: 1,
    }
    assert dead.report().reasons == {"thing": {"conflicting_payload": 1}}
    assert balance(manifest)[0] == (1 if hours else 2)


def test_commit__conflict_within_one_file(store, new_id) -> None:
    """Two payloads under one id in one file conflict too."""
    manifest = Process(store, new_id).deliver(NOON, ("a", 1), ("a", 1), ("a", 2))
    assert [row["x"] for row in rows(store)] == [1]
    assert len(rows(store, DEAD_LETTERS)) == 1
    assert balance(manifest) == (2, 1, 1)


def test_commit__repeated_conflict(store, new_id) -> None:
    """A repeated commit writes the dead letter of a conflict once."""
    process = Process(store, new_id)
    process.deliver(NOON, ("a", 1))
    committable = process.write(NOON, ("a", 2))
    for _ in range(2):
        Process(store, new_id).commit(NOON, committable)
    assert len(rows(store, DEAD_LETTERS)) == 1
    dead = finished_receipt(store, Bucket(DEAD_LETTERS, NOON))
    assert dead.counters["thing"][Outcome.RECEIVED].count == 1


def test_commit__concurrent_hours(store, new_id) -> None:
    """Concurrent commits to different hours deliver no id twice.

    Each process has a memory of its own, and found no duplicate when it wrote its files.
    """
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


def test_delivered_index__reads_indexes_only(store, new_id, monkeypatch) -> None:
    """A process without memory builds its index from index files and opens no data file."""
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


class FailsAtNthWrite(Directory):
    """Fails at the n-th write of any kind and at all later ones, like a process that is killed there."""

    writes_left = 10_000

    def _spend(self) -> None:
        if self.writes_left == 0:
            raise StoreError("killed")
        self.writes_left -= 1

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


def test_commit__killed_then_delivered_to_another_hour(tmp_path, new_id) -> None:
    """After a kill at any write, the next process delivers to another hour exactly the ids that are not delivered yet."""
    killed = 0
    for step in range(30):
        store = Directory(tmp_path / str(step))
        Process(store, new_id).deliver(NOON - HOUR, ("old", 1))
        dying = FailsAtNthWrite(tmp_path / str(step))
        process = Process(dying, new_id)
        committable = process.write(NOON, ("old", 1), ("a", 1), ("b", 1))
        dying.writes_left = step
        try:
            process.commit(NOON, committable)
        except StoreError:
            killed += 1
        Process(store, new_id).deliver(NOON + HOUR, ("a", 1), ("c", 1))
        Process(store, new_id).deliver(NOON, ("old", 1), ("a", 1), ("b", 1))
        commit(store, Bucket("thing", NOON), CLOSE_CHECK, True, lambda: NOON + DAY, new_id, Process(store, new_id).delivered)
        assert sorted(event_id for event_id, _ in delivered(store)) == ["a", "b", "c", "old"], step
    assert 8 <= killed < 30


def test_commit__killed_then_delivered_in_other_order(tmp_path, new_id) -> None:
    """After a kill at any write, no message is both delivered and a dead letter, though they arrive again in another order."""
    for step in range(25):
        store, dying = Directory(tmp_path / str(step)), FailsAtNthWrite(tmp_path / str(step))
        process = Process(dying, new_id)
        committable = process.write(NOON, ("a", 1), ("a", 2))
        dying.writes_left = step
        with suppress(StoreError):
            process.commit(NOON, committable)
        Process(store, new_id).deliver(NOON, ("a", 2), ("a", 1), blind=False)
        outcomes = sorted(row["message_id"][:5] for row in [*rows(store), *rows(store, DEAD_LETTERS)])
        assert outcomes == ["m-a-1", "m-a-2"], step


def test_commit__retried_by_another_worker(tmp_path, new_id) -> None:
    """After a kill at any write and a retry of the commit, each message has one outcome.

    Dataflow makes a committable stable and gives it to another worker; the messages themselves are not delivered again.
    """
    killed = 0
    for step in range(30):
        store, dying = Directory(tmp_path / str(step)), FailsAtNthWrite(tmp_path / str(step))
        Process(store, new_id).deliver(NOON - HOUR, ("c", 1))
        process = Process(dying, new_id)
        found_by_the_writer = process.write(NOON, ("a", 1), ("a", 2))
        found_at_the_commit = [
            process.write(NOON, ("a", 3)),
            process.write(NOON, ("b", 1)),
            process.write(NOON, ("b", 2), ("c", 2)),
        ]
        committable = combine([found_by_the_writer, *found_at_the_commit])
        dying.writes_left = step
        try:
            process.commit(NOON, committable)
        except StoreError:
            killed += 1
        for _ in range(2):
            Process(store, new_id).commit(NOON, committable)
        outcomes = sorted(row["message_id"][:5] for row in [*rows(store), *rows(store, DEAD_LETTERS)])
        assert outcomes == ["m-a-1", "m-a-2", "m-a-3", "m-b-1", "m-b-2", "m-c-1", "m-c-2"], step
    assert 12 <= killed < 30


def test_commit__deleted_bucket(store, new_id) -> None:
    """A deleted bucket does not reappear by itself, and its events can be delivered again."""
    Process(store, new_id).deliver(NOON, ("a", 1))
    for path in sorted(Path(store.uri, "events").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    Process(store, new_id).deliver(NOON + HOUR, ("b", 1))
    assert delivered(store) == [("b", NOON + HOUR)]
    Process(store, new_id).deliver(NOON, ("a", 1))
    assert delivered(store) == [("a", NOON), ("b", NOON + HOUR)]


def test_commit__killed_then_deleted(tmp_path, new_id) -> None:
    """After a kill at any write, an hour that is deleted later can be delivered again."""
    for step in count():
        store, dying = Directory(tmp_path / f"{step}"), FailsAtNthWrite(tmp_path / f"{step}")
        process = Process(dying, new_id)
        committable = process.write(NOON, ("a", 1))
        dying.writes_left = step
        with suppress(StoreError):
            process.commit(NOON, committable)
        Process(store, new_id).commit(NOON, CLOSE_CHECK)
        Process(store, new_id).deliver(NOON, ("a", 1), blind=False)
        shutil.rmtree(Path(store.uri, "events"))
        Process(store, new_id).deliver(NOON, ("a", 1), blind=False)
        assert delivered(store) == [("a", NOON)]
        if dying.writes_left:
            return


def test_delivered_index__reads_only_new_commits(store, new_id, monkeypatch) -> None:
    """The index of a process follows the commits of others without reading all indexes again."""
    long_lived = Process(store, new_id)
    for hour in range(5):
        long_lived.deliver(NOON + hour * HOUR, (f"mine {hour}", 1), blind=False)
    Process(store, new_id).deliver(NOON + 2 * HOUR, ("theirs", 1))
    names: list[str] = []
    read = Directory.read

    def record_name(self: Directory, name: str) -> tuple[bytes, Stored]:
        names.append(name)
        return read(self, name)

    monkeypatch.setattr(Directory, "read", record_name)
    manifest = long_lived.deliver(NOON + 6 * HOUR, ("theirs", 1), ("mine 4", 1), blind=False)
    assert balance(manifest) == (2, 0, 2)
    indexes = [name for name in names if name.endswith(".ids") and name.startswith("events/")]
    assert len(indexes) == 2  # that of the other process's commit, and that of its own last commit


def test_write__older_view(store, new_id, monkeypatch) -> None:
    """A writer with an older view of the log does not pass it on to a concurrent commit of its process.

    The writer has read its bucket's manifest. Then another process adds an id there, and a commit to the next hour looks it
    up.
    """
    process = Process(store, new_id)
    committable = process.write(NOON + HOUR, ("shared", 1))
    commit_reads_staging, may_go_on = threading.Event(), threading.Event()
    read = Directory.read

    def blocking_read(self: Directory, name: str) -> tuple[bytes, Stored]:
        if threading.current_thread() is not threading.main_thread() and name.startswith("staging/"):
            commit_reads_staging.set()
            assert may_go_on.wait(PATIENCE)
        return read(self, name)

    def read_then_fall_behind(_: Directory, bucket: Bucket) -> Manifest:
        manifest = finished_receipt(store, bucket)
        monkeypatch.setattr(stage, "finished_receipt", finished_receipt)
        Process(store, new_id).deliver(NOON, ("shared", 1))
        commits.append(threads.submit(process.commit, NOON + HOUR, committable))
        assert commit_reads_staging.wait(PATIENCE)
        return manifest

    commits: list[Future[Manifest]] = []
    monkeypatch.setattr(Directory, "read", blocking_read)
    monkeypatch.setattr(stage, "finished_receipt", read_then_fall_behind)
    with ThreadPoolExecutor(1) as threads:
        process.write(NOON, ("other", 1), blind=False)
        may_go_on.set()
    assert balance(commits[0].result()) == (1, 0, 1)


def test_delivered_index__memory_is_bounded(store, new_id) -> None:
    """The index keeps only the manifests and ids of hours within the dedup horizon, and some spare."""
    process = Process(store, new_id, timedelta(hours=1))
    for hour in range(30):
        process.deliver(NOON + hour * HOUR, (f"e{hour}", 1), blind=False)
    index = process.delivered.of("thing")
    [loaded] = index._loaded.values()
    assert len(loaded.names) <= 3 + 9
    assert len(index._manifests) <= 3 + 9
    # An evicted hour is read again on the next look-up.
    assert balance(process.deliver(NOON, ("e0", 1), ("new", 1), blind=False)) == (3, 2, 1)
