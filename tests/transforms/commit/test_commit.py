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
from schemas.outcomes import Outcome
from schemas.registry.contracts import Contract
from schemas.row_schemas import encoder, row_schema
from schemas.shards import Shard
from storage.buckets.committable import CLOSE_CHECK, Committable, combine
from storage.buckets.id_index import IdIndex, Lookup, digest_of, index_entry
from storage.buckets.manifest import Manifest
from storage.buckets.manifest_store import latest_manifest, shown_receipt
from storage.objects.base import ObjectStore, StoreError
from storage.objects.local import Directory
from tests.support.contracts import contract_of, field
from transforms.commit import commit as commits
from transforms.decode.packs import Pack, label_of
from transforms.dedup.delivered_index import DeliveredIndexes
from transforms.write.stage import write_data_file

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
def store(tmp_path: Path) -> Directory:
    return Directory(tmp_path)


def pack(*ids: str) -> bytes:
    row: dict[str, Any] = {"event_type": "thing", "schema_version": 1, "received_at": HOUR, "message_id": "m", "x": 1}
    row |= {"sent_at": None, "unknown_fields": None, "skewed_from": None}
    rows = [encoder(SCHEMA)({**row, "event_id": one}) for one in ids]
    return Pack.of(
        uuid4().hex, label_of("thing"), [index_entry(id_hash(one), 0, digest_of(b"")) for one in ids], rows
    ).to_bytes()


def written(store: ObjectStore, new_id: Callable[[], str], *ids: str, shard: Shard = WHOLE) -> Committable:
    """A data file in staging, by a writer that knows of nothing delivered."""
    return write_data_file(store, BUCKET, shard, [pack(*ids)], SCHEMA, nothing, new_id)[0]


def nothing(entries: bytes) -> Lookup:
    return IdIndex(DAY).find(HOUR, entries)


def commit(store: ObjectStore, bucket: Bucket, committable: Committable, close: bool, clock: Any, new_id: Any) -> Manifest:
    """By a process that remembers nothing."""
    return commits.commit(store, bucket, committable, close, clock, new_id, DeliveredIndexes(store, DAY))[0]


def ids_in_files(store: ObjectStore) -> list[str]:
    return sorted(_ids(store, [f"{BUCKET.folder}/{data_file.name}" for data_file in shown_receipt(store, BUCKET).data_files]))


def _ids(store: ObjectStore, names: list[str]) -> Iterator[str]:
    for name in names:
        with store.open(name) as file:
            row: Any
            for row in fastavro.reader(file):
                yield row["event_id"]


def test_a_data_file_holds_each_id_once_and_tells_what_became_of_the_rest(store, new_id) -> None:
    packs = [pack("a", "b", "a"), pack("b", "c", "d")]
    index = IdIndex(DAY)
    index.add(HOUR, index_entry(id_hash("d"), 0, digest_of(b"")))
    committable, conflicting = write_data_file(store, BUCKET, WHOLE, packs, SCHEMA, partial(index.find, HOUR), new_id)
    assert conflicting == []
    commit(store, BUCKET, committable, False, clock, new_id)
    assert ids_in_files(store) == ["a", "b", "c"]
    counters = committable.counters["thing"]
    assert (counters[Outcome.DELIVERED].count, counters[Outcome.DUPLICATE].count) == (3, 3)


def test_the_index_beside_a_data_file_is_the_sorted_entries_of_its_rows(store, new_id) -> None:
    commit(store, BUCKET, written(store, new_id, "a", "b", "c"), False, clock, new_id)
    [data_file] = shown_receipt(store, BUCKET).data_files
    data, _ = store.read(f"{BUCKET.folder}/{data_file.index_name}")
    assert data == b"".join(index_entry(id_hash(one), 0, digest_of(b"")) for one in sorted("abc", key=id_hash))


def test_repeating_a_commit_changes_nothing(store, new_id) -> None:
    committable = combine([written(store, new_id, "a")])
    first = commit(store, BUCKET, committable, True, clock, new_id)
    names = list(store.list(""))
    assert commit(store, BUCKET, committable, True, clock, new_id) == first
    assert list(store.list("")) == names
    assert ids_in_files(store) == ["a"]


def test_ids_that_are_there_already_are_taken_out_and_become_duplicates(store, new_id) -> None:
    one, two = written(store, new_id, "a", "b"), written(store, new_id, "b", "c")
    commit(store, BUCKET, combine([one]), False, clock, new_id)
    manifest = commit(store, BUCKET, combine([two]), False, clock, new_id)
    assert ids_in_files(store) == ["a", "b", "c"]
    counters = manifest.counters["thing"]
    assert (counters[Outcome.DELIVERED].count, counters[Outcome.DUPLICATE].count) == (3, 1)
    assert counters[Outcome.DELIVERED] == manifest.ids


def test_two_files_of_one_commit_that_share_an_id_deliver_it_once(store, new_id) -> None:
    both = combine([written(store, new_id, "a", "b"), written(store, new_id, "b", "c")])
    manifest = commit(store, BUCKET, both, False, clock, new_id)
    assert ids_in_files(store) == ["a", "b", "c"]
    assert manifest.counters["thing"][Outcome.DUPLICATE].count == 1


def test_a_file_of_nothing_but_repeats_is_not_listed(store, new_id) -> None:
    commit(store, BUCKET, combine([written(store, new_id, "a")]), False, clock, new_id)
    manifest = commit(store, BUCKET, combine([written(store, new_id, "a")]), False, clock, new_id)
    assert len(manifest.data_files) == 1
    assert manifest.counters["thing"][Outcome.DUPLICATE].count == 1


def test_shards_of_another_count_are_checked_too(store, new_id) -> None:
    commit(store, BUCKET, combine([written(store, new_id, "a")]), False, clock, new_id)
    again = written(store, new_id, "a", shard=Shard.of(id_hash("a"), 16))
    commit(store, BUCKET, combine([again]), False, clock, new_id)
    assert ids_in_files(store) == ["a"]


@pytest.mark.parametrize("workers", [8])
def test_many_who_commit_at_once_lose_nothing_and_deliver_nothing_twice(store, new_id, workers) -> None:
    committables = [combine([written(store, new_id, "shared", f"own {number}")]) for number in range(workers)]
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(lambda committable: commit(store, BUCKET, committable, True, clock, new_id), committables))
    assert ids_in_files(store) == [*(f"own {number}" for number in range(workers)), "shared"]
    manifest = latest_manifest(store, BUCKET)
    assert manifest == shown_receipt(store, BUCKET)
    assert manifest.counters["thing"][Outcome.DELIVERED] == manifest.ids
    assert manifest.counters["thing"][Outcome.DUPLICATE].count == workers - 1


class Failing(Directory):
    """Fails at the n-th write of any kind, and at all after it, as a process that was killed there."""

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


def test_a_crash_at_any_write_leaves_nothing_half_seen_and_the_next_look_finishes_it(tmp_path, new_id) -> None:
    stopped = 0
    for step in range(20):
        store = Failing(tmp_path / str(step))
        commit(store, BUCKET, combine([written(store, new_id, "a")]), True, clock, new_id)
        committable = combine([written(store, new_id, "a", "b")])
        store.left = step
        try:
            commit(store, BUCKET, committable, True, clock, new_id)
        except StoreError:
            stopped += 1
        assert ids_in_files(store) in (["a"], ["a", "b"])
        in_folder = {name for name in store.list(f"{BUCKET.folder}/part-") if name.endswith(".avro")}
        committed = {f"{BUCKET.folder}/{data_file.name}" for data_file in latest_manifest(store, BUCKET).data_files}
        assert in_folder <= committed

        store.left = 10_000
        had_committed = latest_manifest(store, BUCKET).version == 2
        commit(store, BUCKET, CLOSE_CHECK, True, clock, new_id)
        assert ids_in_files(store) == (["a", "b"] if had_committed else ["a"])
        commit(store, BUCKET, combine([written(store, new_id, "a", "b")]), True, clock, new_id)
        assert ids_in_files(store) == ["a", "b"]
    # _SUCCESS of the earlier version, then turn, version, turn, index, file, _RECEIPT.json, _SUCCESS
    assert stopped == 8


def test_an_index_that_is_not_the_committed_one_is_named_and_nothing_is_committed(store, new_id) -> None:
    manifest = commit(store, BUCKET, combine([written(store, new_id, "a")]), False, clock, new_id)
    name = f"{BUCKET.folder}/{manifest.data_files[0].index_name}"
    store.write(name, bytes(16))
    with pytest.raises(StoreError, match=name):
        commit(store, BUCKET, combine([written(store, new_id, "a")]), False, clock, new_id)
    assert latest_manifest(store, BUCKET) == manifest
