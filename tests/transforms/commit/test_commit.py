"""What makes a bucket exactly-once: union by id, one winner of each version, ids checked against those that are there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

import fastavro
import pytest

from schemas.buckets import Bucket
from schemas.fingerprints import id_hash
from schemas.outcomes import Exit
from schemas.registry.contracts import Contract
from schemas.row_schemas import encoder, row_schema
from schemas.shards import Shard
from storage.buckets.committable import LOOK, Contribution, combine
from storage.buckets.id_index import Found, Known, digest_of, mark
from storage.buckets.manifest import Receipt
from storage.buckets.manifest_store import newest_receipt, shown_receipt
from storage.objects.base import Buckets, BucketsError
from storage.objects.local import Directory
from tests.support.contracts import contract_of, field
from transforms.commit import commit as commits
from transforms.decode.packs import Pack, label_of
from transforms.dedup.delivered_index import Delivered
from transforms.write.stage import write_part

HOUR = datetime(2026, 1, 31, 9, tzinfo=UTC)
BUCKET = Bucket("thing", HOUR)
CONTRACT: Contract = contract_of(field("x", "long"))
SCHEMA = row_schema(CONTRACT)
WHOLE = Shard(0, 1)
DAY = timedelta(hours=24)


def clock() -> datetime:
    return HOUR + timedelta(hours=2)


@pytest.fixture
def new_id() -> Callable[[], str]:
    numbers = count()
    return lambda: f"id{next(numbers):05d}"


@pytest.fixture
def buckets(tmp_path: Path) -> Directory:
    return Directory(tmp_path)


def pack(*ids: str) -> bytes:
    row: dict[str, Any] = {"event_type": "thing", "schema_version": 1, "received_at": HOUR, "message_id": "m", "x": 1}
    row |= {"sent_at": None, "unknown_fields": None, "skewed_from": None}
    rows = [encoder(SCHEMA)({**row, "event_id": one}) for one in ids]
    return Pack.of(uuid4().hex, label_of("thing"), [mark(id_hash(one), 0, digest_of(b"")) for one in ids], rows).to_bytes()


def written(buckets: Buckets, new_id: Callable[[], str], *ids: str, shard: Shard = WHOLE) -> Contribution:
    """A part in staging, by a writer that knows of nothing delivered."""
    return write_part(buckets, BUCKET, shard, [pack(*ids)], SCHEMA, nothing, new_id)[0]


def nothing(marks: bytes) -> Found:
    return Known(DAY).find(HOUR, marks)


def commit(buckets: Buckets, bucket: Bucket, work: Contribution, close: bool, clock: Any, new_id: Any) -> Receipt:
    """By a process that remembers nothing."""
    return commits.commit(buckets, bucket, work, close, clock, new_id, Delivered(buckets, bucket.stream, DAY))[0]


def ids_in_files(buckets: Buckets) -> list[str]:
    return sorted(_ids(buckets, [f"{BUCKET.folder}/{part.name}" for part in shown_receipt(buckets, BUCKET).parts]))


def _ids(buckets: Buckets, names: list[str]) -> Iterator[str]:
    for name in names:
        with buckets.open(name) as file:
            row: Any
            for row in fastavro.reader(file):
                yield row["event_id"]


def test_a_part_holds_each_id_once_and_tells_what_became_of_the_rest(buckets, new_id) -> None:
    packs = [pack("a", "b", "a"), pack("b", "c", "d")]
    known = Known(DAY)
    known.add(HOUR, mark(id_hash("d"), 0, digest_of(b"")))
    contribution, conflicting = write_part(buckets, BUCKET, WHOLE, packs, SCHEMA, partial(known.find, HOUR), new_id)
    assert conflicting == []
    commit(buckets, BUCKET, contribution, False, clock, new_id)
    assert ids_in_files(buckets) == ["a", "b", "c"]
    books = contribution.books["thing"]
    assert (books[Exit.DELIVERED].count, books[Exit.DUPLICATE].count) == (3, 3)


def test_the_index_beside_a_part_is_the_sorted_marks_of_its_rows(buckets, new_id) -> None:
    commit(buckets, BUCKET, written(buckets, new_id, "a", "b", "c"), False, clock, new_id)
    [part] = shown_receipt(buckets, BUCKET).parts
    data, _ = buckets.read(f"{BUCKET.folder}/{part.index_name}")
    assert data == b"".join(mark(id_hash(one), 0, digest_of(b"")) for one in sorted("abc", key=id_hash))


def test_repeating_a_commit_changes_nothing(buckets, new_id) -> None:
    work = combine([written(buckets, new_id, "a")])
    first = commit(buckets, BUCKET, work, True, clock, new_id)
    names = list(buckets.list(""))
    assert commit(buckets, BUCKET, work, True, clock, new_id) == first
    assert list(buckets.list("")) == names
    assert ids_in_files(buckets) == ["a"]


def test_ids_that_are_there_already_are_taken_out_and_become_duplicates(buckets, new_id) -> None:
    one, two = written(buckets, new_id, "a", "b"), written(buckets, new_id, "b", "c")
    commit(buckets, BUCKET, combine([one]), False, clock, new_id)
    receipt = commit(buckets, BUCKET, combine([two]), False, clock, new_id)
    assert ids_in_files(buckets) == ["a", "b", "c"]
    books = receipt.books["thing"]
    assert (books[Exit.DELIVERED].count, books[Exit.DUPLICATE].count) == (3, 1)
    assert books[Exit.DELIVERED] == receipt.ids


def test_two_files_of_one_commit_that_share_an_id_deliver_it_once(buckets, new_id) -> None:
    both = combine([written(buckets, new_id, "a", "b"), written(buckets, new_id, "b", "c")])
    receipt = commit(buckets, BUCKET, both, False, clock, new_id)
    assert ids_in_files(buckets) == ["a", "b", "c"]
    assert receipt.books["thing"][Exit.DUPLICATE].count == 1


def test_a_file_of_nothing_but_repeats_is_not_listed(buckets, new_id) -> None:
    commit(buckets, BUCKET, combine([written(buckets, new_id, "a")]), False, clock, new_id)
    receipt = commit(buckets, BUCKET, combine([written(buckets, new_id, "a")]), False, clock, new_id)
    assert len(receipt.parts) == 1
    assert receipt.books["thing"][Exit.DUPLICATE].count == 1


def test_shards_of_another_count_are_checked_too(buckets, new_id) -> None:
    commit(buckets, BUCKET, combine([written(buckets, new_id, "a")]), False, clock, new_id)
    again = written(buckets, new_id, "a", shard=Shard.of(id_hash("a"), 16))
    commit(buckets, BUCKET, combine([again]), False, clock, new_id)
    assert ids_in_files(buckets) == ["a"]


@pytest.mark.parametrize("workers", [8])
def test_many_who_commit_at_once_lose_nothing_and_deliver_nothing_twice(buckets, new_id, workers) -> None:
    works = [combine([written(buckets, new_id, "shared", f"own {number}")]) for number in range(workers)]
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(lambda work: commit(buckets, BUCKET, work, True, clock, new_id), works))
    assert ids_in_files(buckets) == [*(f"own {number}" for number in range(workers)), "shared"]
    receipt = newest_receipt(buckets, BUCKET)
    assert receipt == shown_receipt(buckets, BUCKET)
    assert receipt.books["thing"][Exit.DELIVERED] == receipt.ids
    assert receipt.books["thing"][Exit.DUPLICATE].count == workers - 1


class Failing(Directory):
    """Fails at the n-th write of any kind, and at all after it, as a process that was killed there."""

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


def test_a_crash_at_any_write_leaves_nothing_half_seen_and_the_next_look_finishes_it(tmp_path, new_id) -> None:
    stopped = 0
    for step in range(20):
        buckets = Failing(tmp_path / str(step))
        commit(buckets, BUCKET, combine([written(buckets, new_id, "a")]), True, clock, new_id)
        work = combine([written(buckets, new_id, "a", "b")])
        buckets.left = step
        try:
            commit(buckets, BUCKET, work, True, clock, new_id)
        except BucketsError:
            stopped += 1
        assert ids_in_files(buckets) in (["a"], ["a", "b"])
        in_folder = {name for name in buckets.list(f"{BUCKET.folder}/part-") if name.endswith(".avro")}
        committed = {f"{BUCKET.folder}/{part.name}" for part in newest_receipt(buckets, BUCKET).parts}
        assert in_folder <= committed

        buckets.left = 10_000
        had_committed = newest_receipt(buckets, BUCKET).version == 2
        commit(buckets, BUCKET, LOOK, True, clock, new_id)
        assert ids_in_files(buckets) == (["a", "b"] if had_committed else ["a"])
        commit(buckets, BUCKET, combine([written(buckets, new_id, "a", "b")]), True, clock, new_id)
        assert ids_in_files(buckets) == ["a", "b"]
    # _SUCCESS of the earlier version, then turn, version, turn, index, file, _RECEIPT.json, _SUCCESS
    assert stopped == 8


def test_an_index_that_is_not_the_committed_one_is_named_and_nothing_is_committed(buckets, new_id) -> None:
    receipt = commit(buckets, BUCKET, combine([written(buckets, new_id, "a")]), False, clock, new_id)
    name = f"{BUCKET.folder}/{receipt.parts[0].index_name}"
    buckets.write(name, bytes(16))
    with pytest.raises(BucketsError, match=name):
        commit(buckets, BUCKET, combine([written(buckets, new_id, "a")]), False, clock, new_id)
    assert newest_receipt(buckets, BUCKET) == receipt
