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
from schemas.outcomes import Exit
from schemas.row_schemas import encoder, row_schema
from schemas.shards import Shard
from storage.buckets.commit_log import Turn
from storage.buckets.committable import LOOK, Contribution, combine
from storage.buckets.id_index import Found, Known, digest_of, mark
from storage.buckets.manifest import Receipt
from storage.buckets.manifest_store import finished_receipt
from storage.objects.base import BucketsError, Stored
from storage.objects.local import Directory
from tests.support.contracts import contract_of, field
from transforms.commit.commit import commit
from transforms.decode.packs import Pack, label_of
from transforms.dedup.delivered_index import Delivered
from transforms.write import stage as contributing
from transforms.write.stage import contribute

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
DAY = timedelta(hours=24)
SCHEMA = row_schema(contract_of(field("x", "long"), field("raw", ["null", "bytes"], default=None)))
WHOLE = Shard(0, 1)


@pytest.fixture
def new_id() -> Callable[[], str]:
    numbers = count()
    return lambda: f"{next(numbers):032x}"


@pytest.fixture
def buckets(tmp_path: Path) -> Directory:
    return Directory(tmp_path)


class Blind(Delivered):
    """Knows of nothing, as if all had been delivered while a process wrote."""

    def find(self, turn: Turn, own: Receipt, shard: Shard, marks: bytes) -> Found:
        return Known(self.horizon).find(own.bucket.hour, marks)


class Process:
    """What one process knows and does: nothing in memory is shared with another."""

    def __init__(self, buckets: Directory, new_id: Callable[[], str], horizon: timedelta = DAY) -> None:
        self.buckets, self.new_id = buckets, new_id
        self.delivered = Delivered(buckets, "thing", horizon)

    def write(self, hour: datetime, *events: tuple[str, int], blind: bool = True, late: int = 0) -> Contribution:
        """A contribution of events (id, x) that were received `late` microseconds after the hour began."""
        rows = [self.row(hour + timedelta(microseconds=late), *event) for event in events]
        marks = [mark(id_hash(one), late, digest_of(b"%d" % x)) for one, x in events]
        pack = Pack.of(self.new_id(), label_of("thing"), marks, [encoder(SCHEMA)(row) for row in rows])
        delivered = Blind(self.buckets, "thing", DAY) if blind else self.delivered
        return contribute(self.buckets, Bucket("thing", hour), WHOLE, [pack.to_bytes()], SCHEMA, delivered)

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

    def commit(self, hour: datetime, contribution: Contribution) -> Receipt:
        bucket = Bucket("thing", hour)
        return commit(self.buckets, bucket, combine([contribution]), False, lambda: NOON, self.new_id, self.delivered)[0]

    def deliver(self, hour: datetime, *events: tuple[str, int], blind: bool = True, late: int = 0) -> Receipt:
        return self.commit(hour, self.write(hour, *events, blind=blind, late=late))


def rows(buckets: Directory, stream: str = "thing") -> list[dict[str, Any]]:
    """All rows that the stream's receipts list."""
    found: list[Any] = []
    folder = DEAD_LETTERS if stream == DEAD_LETTERS else f"events/{stream}"
    for name in buckets.list(f"{folder}/"):
        if name.endswith("_RECEIPT.json"):
            receipt = Receipt.from_json(buckets.read(name)[0], name)
            for part in receipt.parts:
                with buckets.open(f"{receipt.bucket.folder}/{part.name}") as file:
                    found += fastavro.reader(file)
    return found


def delivered(buckets: Directory) -> list[tuple[str, datetime]]:
    return sorted((row["event_id"], row["received_at"]) for row in rows(buckets))


def balance(receipt: Receipt) -> tuple[int, int, int]:
    books = receipt.books["thing"]
    assert books[Exit.RECEIVED] == books[Exit.DELIVERED] + books[Exit.DUPLICATE]
    return books[Exit.RECEIVED].count, books[Exit.DELIVERED].count, books[Exit.DUPLICATE].count


@pytest.mark.parametrize("blind", [True, False], ids=["found at the commit", "found by the writer"])
@pytest.mark.parametrize("first", [NOON, NOON + HOUR], ids=["then later", "then earlier"])
def test_an_event_that_comes_again_in_another_hour_is_a_duplicate(buckets, new_id, first: datetime, blind: bool) -> None:
    second = NOON + HOUR if first == NOON else NOON
    Process(buckets, new_id).deliver(first, ("a", 1), ("b", 1))
    receipt = Process(buckets, new_id).deliver(second, ("b", 1), ("c", 1), blind=blind)
    assert delivered(buckets) == sorted([("a", first), ("b", first), ("c", second)])
    assert balance(receipt) == (2, 1, 1)


def test_the_horizon_counts_from_the_first_delivery_to_the_microsecond(buckets, new_id) -> None:
    process = Process(buckets, new_id, timedelta(hours=2))
    process.deliver(NOON, ("a", 1), late=7)
    assert balance(process.deliver(NOON + 2 * HOUR, ("a", 1), late=6)) == (1, 0, 1)
    assert balance(process.deliver(NOON + 2 * HOUR, ("a", 1), late=7)) == (2, 1, 1)


def test_an_id_of_two_types_is_two_events(buckets, new_id) -> None:
    process = Process(buckets, new_id)
    process.deliver(NOON, ("a", 1))
    process.delivered = Delivered(buckets, "other", DAY)
    own = Receipt(Bucket("other", NOON))
    assert not process.delivered.find(Turn(), own, WHOLE, mark(id_hash("a"), 0, digest_of(b"1"))).repeated.any()


@pytest.mark.parametrize("blind", [True, False], ids=["found at the commit", "found by the writer"])
@pytest.mark.parametrize("hours", [0, 1])
def test_another_payload_under_a_delivered_id_is_a_dead_letter_with_all_it_says(buckets, new_id, hours, blind) -> None:
    process, second = Process(buckets, new_id), NOON + hours * HOUR
    process.deliver(NOON, ("a", 1))
    receipt = process.deliver(second, ("a", 2), ("b", 1), blind=blind)
    assert {row["event_id"]: row["x"] for row in rows(buckets)} == {"a": 1, "b": 1}
    [letter] = rows(buckets, DEAD_LETTERS)
    assert (letter["reason"], letter["stage"], letter["event_id"]) == ("conflicting_payload", "deduplicate", "a")
    assert orjson.loads(letter["data"]) == {"x": 2, "raw": "AP8=", "y": {"z": 1}}
    assert letter["attributes"]["received_at"] == second.isoformat().replace("+00:00", "Z")
    dead = finished_receipt(buckets, Bucket(DEAD_LETTERS, second))
    assert {way: tally.count for way, tally in dead.books["thing"].items()} == {Exit.RECEIVED: 1, Exit.DEAD_LETTER: 1}
    assert dead.report().reasons == {"thing": {"conflicting_payload": 1}}
    assert balance(receipt)[0] == (1 if hours else 2)


def test_two_payloads_in_one_file_conflict_too(buckets, new_id) -> None:
    receipt = Process(buckets, new_id).deliver(NOON, ("a", 1), ("a", 1), ("a", 2))
    assert [row["x"] for row in rows(buckets)] == [1]
    assert len(rows(buckets, DEAD_LETTERS)) == 1
    assert balance(receipt) == (2, 1, 1)


def test_a_commit_that_is_repeated_refuses_what_conflicts_once(buckets, new_id) -> None:
    process = Process(buckets, new_id)
    process.deliver(NOON, ("a", 1))
    contribution = process.write(NOON, ("a", 2))
    for _ in range(2):
        Process(buckets, new_id).commit(NOON, contribution)
    assert len(rows(buckets, DEAD_LETTERS)) == 1
    dead = finished_receipt(buckets, Bucket(DEAD_LETTERS, NOON))
    assert dead.books["thing"][Exit.RECEIVED].count == 1


def test_processes_that_commit_to_different_hours_at_once_deliver_no_id_twice(buckets, new_id) -> None:
    """Each has a memory of its own, and found nothing when it wrote."""
    works = []
    for number in range(12):
        process, hour = Process(buckets, new_id), NOON + number % 4 * HOUR
        works.append((process, hour, process.write(hour, ("shared", 1), (f"own {number}", 1), (f"pair {number // 2}", 1))))
    with ThreadPoolExecutor(len(works)) as threads:
        list(threads.map(lambda work: work[0].commit(work[1], work[2]), works))
    found = Counter(event_id for event_id, _ in delivered(buckets))
    assert set(found.values()) == {1}
    assert len(found) == 1 + 12 + 6
    receipts = [finished_receipt(buckets, Bucket("thing", NOON + hour * HOUR)) for hour in range(4)]
    assert sum(balance(receipt)[0] for receipt in receipts) == 36
    assert sum(balance(receipt)[1] for receipt in receipts) == len(found)


def test_a_process_without_memory_learns_from_indexes_and_opens_no_file(buckets, new_id, monkeypatch) -> None:
    Process(buckets, new_id).deliver(NOON, *((f"e{number}", 1) for number in range(100)))

    def opened(name: str) -> BytesIO:
        raise AssertionError(f"{name} was opened")

    process = Process(buckets, new_id)
    monkeypatch.setattr(
        buckets,
        "open",
        lambda name: opened(name) if name.startswith("events/") and name.endswith(".avro") else Directory.open(buckets, name),
    )
    receipt = process.deliver(NOON + HOUR, *((f"e{number}", 1) for number in range(50, 150)), blind=False)
    assert balance(receipt) == (100, 50, 50)


class Stops(Directory):
    """Fails at the n-th write of any kind and at all after it, as a process that is killed there."""

    left = 10_000

    def _spend(self) -> None:
        if self.left == 0:
            raise BucketsError("killed")
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
        buckets = Directory(tmp_path / str(step))
        Process(buckets, new_id).deliver(NOON - HOUR, ("old", 1))
        dying = Stops(tmp_path / str(step))
        process = Process(dying, new_id)
        contribution = process.write(NOON, ("old", 1), ("a", 1), ("b", 1))
        dying.left = step
        try:
            process.commit(NOON, contribution)
        except BucketsError:
            killed += 1
        Process(buckets, new_id).deliver(NOON + HOUR, ("a", 1), ("c", 1))
        Process(buckets, new_id).deliver(NOON, ("old", 1), ("a", 1), ("b", 1))
        commit(buckets, Bucket("thing", NOON), LOOK, True, lambda: NOON + DAY, new_id, Process(buckets, new_id).delivered)
        assert sorted(event_id for event_id, _ in delivered(buckets)) == ["a", "b", "c", "old"], step
    assert 8 <= killed < 30


def test_wherever_a_process_is_killed_no_message_is_both_delivered_and_refused_though_they_come_again_in_another_order(
    tmp_path, new_id
) -> None:
    for step in range(25):
        buckets, dying = Directory(tmp_path / str(step)), Stops(tmp_path / str(step))
        process = Process(dying, new_id)
        contribution = process.write(NOON, ("a", 1), ("a", 2))
        dying.left = step
        with suppress(BucketsError):
            process.commit(NOON, contribution)
        Process(buckets, new_id).deliver(NOON, ("a", 2), ("a", 1), blind=False)
        exits = sorted(row["message_id"][:5] for row in [*rows(buckets), *rows(buckets, DEAD_LETTERS)])
        assert exits == ["m-a-1", "m-a-2"], step


def test_wherever_a_worker_is_killed_and_its_commit_tried_again_each_message_is_in_one_exit(tmp_path, new_id) -> None:
    """As on Dataflow, which fixes a contribution and gives it to another worker: the messages themselves do not come again."""
    killed = 0
    for step in range(30):
        buckets, dying = Directory(tmp_path / str(step)), Stops(tmp_path / str(step))
        Process(buckets, new_id).deliver(NOON - HOUR, ("c", 1))
        process = Process(dying, new_id)
        found_by_the_writer = process.write(NOON, ("a", 1), ("a", 2))
        found_at_the_commit = [
            process.write(NOON, ("a", 3)),
            process.write(NOON, ("b", 1)),
            process.write(NOON, ("b", 2), ("c", 2)),
        ]
        contribution = combine([found_by_the_writer, *found_at_the_commit])
        dying.left = step
        try:
            process.commit(NOON, contribution)
        except BucketsError:
            killed += 1
        for _ in range(2):
            Process(buckets, new_id).commit(NOON, contribution)
        exits = sorted(row["message_id"][:5] for row in [*rows(buckets), *rows(buckets, DEAD_LETTERS)])
        assert exits == ["m-a-1", "m-a-2", "m-a-3", "m-b-1", "m-b-2", "m-c-1", "m-c-2"], step
    assert 12 <= killed < 30


def test_a_bucket_that_was_deleted_does_not_come_back_by_itself_and_can_be_delivered_again(buckets, new_id) -> None:
    Process(buckets, new_id).deliver(NOON, ("a", 1))
    for path in sorted(Path(buckets.uri, "events").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    Process(buckets, new_id).deliver(NOON + HOUR, ("b", 1))
    assert delivered(buckets) == [("b", NOON + HOUR)]
    Process(buckets, new_id).deliver(NOON, ("a", 1))
    assert delivered(buckets) == [("a", NOON), ("b", NOON + HOUR)]


def test_wherever_a_process_was_killed_hours_that_are_deleted_later_can_be_delivered_again(tmp_path, new_id) -> None:
    for left in count():
        buckets, stops = Directory(tmp_path / f"{left}"), Stops(tmp_path / f"{left}")
        process = Process(stops, new_id)
        work = process.write(NOON, ("a", 1))
        stops.left = left
        with suppress(BucketsError):
            process.commit(NOON, work)
        Process(buckets, new_id).commit(NOON, LOOK)
        Process(buckets, new_id).deliver(NOON, ("a", 1), blind=False)
        shutil.rmtree(Path(buckets.uri, "events"))
        Process(buckets, new_id).deliver(NOON, ("a", 1), blind=False)
        assert delivered(buckets) == [("a", NOON)]
        if stops.left:
            return


def test_what_a_process_remembers_follows_what_others_commit_without_reading_all_anew(buckets, new_id, monkeypatch) -> None:
    long_lived = Process(buckets, new_id)
    for hour in range(5):
        long_lived.deliver(NOON + hour * HOUR, (f"mine {hour}", 1), blind=False)
    Process(buckets, new_id).deliver(NOON + 2 * HOUR, ("theirs", 1))
    names: list[str] = []
    read = Directory.read

    def noted(self: Directory, name: str) -> tuple[bytes, Stored]:
        names.append(name)
        return read(self, name)

    monkeypatch.setattr(Directory, "read", noted)
    receipt = long_lived.deliver(NOON + 6 * HOUR, ("theirs", 1), ("mine 4", 1), blind=False)
    assert balance(receipt) == (2, 0, 2)
    indexes = [name for name in names if name.endswith(".ids") and name.startswith("events/")]
    assert len(indexes) == 2  # theirs, and that of its own last commit


def test_a_writer_with_an_older_view_does_not_take_it_to_a_commit_of_its_process(buckets, new_id, monkeypatch) -> None:
    """It has read its bucket's receipt; then another process adds an id there, which a commit to the next hour asks for."""
    process = Process(buckets, new_id)
    work = process.write(NOON + HOUR, ("shared", 1))
    asks, may_go_on = threading.Event(), threading.Event()
    read = Directory.read

    def stops(self: Directory, name: str) -> tuple[bytes, Stored]:
        if threading.current_thread() is not threading.main_thread() and name.startswith("staging/"):
            asks.set()
            assert may_go_on.wait(10)
        return read(self, name)

    def falls_behind(_: Directory, bucket: Bucket) -> Receipt:
        receipt = finished_receipt(buckets, bucket)
        monkeypatch.setattr(contributing, "finished_receipt", finished_receipt)
        Process(buckets, new_id).deliver(NOON, ("shared", 1))
        commits.append(threads.submit(process.commit, NOON + HOUR, work))
        assert asks.wait(10)
        return receipt

    commits: list[Future[Receipt]] = []
    monkeypatch.setattr(Directory, "read", stops)
    monkeypatch.setattr(contributing, "finished_receipt", falls_behind)
    with ThreadPoolExecutor(1) as threads:
        process.write(NOON, ("other", 1), blind=False)
        may_go_on.set()
    assert balance(commits[0].result()) == (1, 0, 1)


def test_memory_is_bounded_by_the_window(buckets, new_id) -> None:
    process = Process(buckets, new_id, timedelta(hours=1))
    for hour in range(30):
        process.deliver(NOON + hour * HOUR, (f"e{hour}", 1), blind=False)
    [loaded] = process.delivered._loaded.values()
    assert len(loaded.names) <= 3 + 9
    assert len(process.delivered._receipts) <= 3 + 9
    # What was forgotten is learned again when somebody asks.
    assert balance(process.deliver(NOON, ("e0", 1), ("new", 1), blind=False)) == (3, 2, 1)
