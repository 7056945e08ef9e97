"""Commits: union by id, one winner per version, and ids checked against those that are delivered already."""

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
from transforms.decode.packs import Pack, count_key_of
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
    """Build a pack of events with these ids and equal payloads."""
    row: dict[str, Any] = {"event_type": "thing", "schema_version": 1, "received_at": HOUR, "message_id": "m", "x": 1}
    row |= {"sent_at": None, "unknown_fields": None, "skewed_from": None}
    rows = [encoder(SCHEMA)({**row, "event_id": event_id}) for event_id in ids]
    return Pack.of(
        uuid4().hex, count_key_of("thing"), [index_entry(id_hash(event_id), 0, digest_of(b"")) for event_id in ids], rows
    ).to_bytes()


def written(store: ObjectStore, new_id: Callable[[], str], *ids: str, shard: Shard = WHOLE) -> Committable:
    """Stage a data file as a writer does whose index of delivered ids is empty."""
    return write_data_file(store, BUCKET, shard, [pack(*ids)], SCHEMA, nothing, new_id)[0]


def nothing(entries: bytes) -> Lookup:
    """Look entries up in an empty index."""
    return IdIndex(DAY).find(HOUR, entries)


def commit(store: ObjectStore, bucket: Bucket, committable: Committable, close: bool, clock: Any, new_id: Any) -> Manifest:
    """Commit as a process without memory."""
    return commits.commit(store, bucket, committable, close, clock, new_id, DeliveredIndexes(store, DAY))[0]


def ids_in_files(store: ObjectStore) -> list[str]:
    return sorted(_ids(store, [f"{BUCKET.folder}/{data_file.name}" for data_file in shown_receipt(store, BUCKET).data_files]))


def _ids(store: ObjectStore, names: list[str]) -> Iterator[str]:
    for name in names:
        with store.open(name) as file:
            row: Any
            for row in fastavro.reader(file):
                yield row["event_id"]


def test_write_data_file__each_id_once(store, new_id) -> None:
    """A data file holds each id once; copies, and ids that are delivered already, are counted as duplicates."""
    packs = [pack("a", "b", "a"), pack("b", "c", "d")]
    index = IdIndex(DAY)
    index.add(HOUR, index_entry(id_hash("d"), 0, digest_of(b"")))
    committable, conflicting = write_data_file(store, BUCKET, WHOLE, packs, SCHEMA, partial(index.find, HOUR), new_id)
    assert conflicting == []
    commit(store, BUCKET, committable, False, clock, new_id)
    assert ids_in_files(store) == ["a", "b", "c"]
    counters = committable.counters["thing"]
    assert (counters[Outcome.DELIVERED].count, counters[Outcome.DUPLICATE].count) == (3, 3)


def test_write_data_file__index_is_sorted(store, new_id) -> None:
    """The index next to a data file consists of the sorted entries of its rows."""
    commit(store, BUCKET, written(store, new_id, "a", "b", "c"), False, clock, new_id)
    [data_file] = shown_receipt(store, BUCKET).data_files
    data, _ = store.read(f"{BUCKET.folder}/{data_file.index_name}")
    assert data == b"".join(index_entry(id_hash(event_id), 0, digest_of(b"")) for event_id in sorted("abc", key=id_hash))


def test_commit__is_idempotent(store, new_id) -> None:
    """Repeating a commit changes nothing."""
    committable = combine([written(store, new_id, "a")])
    first = commit(store, BUCKET, committable, True, clock, new_id)
    names = list(store.list(""))
    assert commit(store, BUCKET, committable, True, clock, new_id) == first
    assert list(store.list("")) == names
    assert ids_in_files(store) == ["a"]


def test_commit__drops_delivered_ids(store, new_id) -> None:
    """Ids that another file of the bucket holds are removed from the new file and counted as duplicates."""
    first, second = written(store, new_id, "a", "b"), written(store, new_id, "b", "c")
    commit(store, BUCKET, combine([first]), False, clock, new_id)
    manifest = commit(store, BUCKET, combine([second]), False, clock, new_id)
    assert ids_in_files(store) == ["a", "b", "c"]
    counters = manifest.counters["thing"]
    assert (counters[Outcome.DELIVERED].count, counters[Outcome.DUPLICATE].count) == (3, 1)
    assert counters[Outcome.DELIVERED] == manifest.ids


def test_commit__two_files_share_an_id(store, new_id) -> None:
    """Two files of one commit that share an id deliver it once."""
    both = combine([written(store, new_id, "a", "b"), written(store, new_id, "b", "c")])
    manifest = commit(store, BUCKET, both, False, clock, new_id)
    assert ids_in_files(store) == ["a", "b", "c"]
    assert manifest.counters["thing"][Outcome.DUPLICATE].count == 1


def test_commit__file_of_duplicates_is_not_listed(store, new_id) -> None:
    """A file of nothing but duplicates is not listed in the manifest; its rows are counted."""
    commit(store, BUCKET, combine([written(store, new_id, "a")]), False, clock, new_id)
    manifest = commit(store, BUCKET, combine([written(store, new_id, "a")]), False, clock, new_id)
    assert len(manifest.data_files) == 1
    assert manifest.counters["thing"][Outcome.DUPLICATE].count == 1


def test_commit__other_number_of_shards(store, new_id) -> None:
    """Ids are checked against data files of another number of shards too."""
    commit(store, BUCKET, combine([written(store, new_id, "a")]), False, clock, new_id)
    again = written(store, new_id, "a", shard=Shard.of(id_hash("a"), 16))
    commit(store, BUCKET, combine([again]), False, clock, new_id)
    assert ids_in_files(store) == ["a"]


@pytest.mark.parametrize("workers", [8])
def test_commit__concurrent_workers(store, new_id, workers) -> None:
    """Concurrent commits to a bucket lose no event and deliver none twice."""
    committables = [combine([written(store, new_id, "shared", f"own {number}")]) for number in range(workers)]
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(lambda committable: commit(store, BUCKET, committable, True, clock, new_id), committables))
    assert ids_in_files(store) == [*(f"own {number}" for number in range(workers)), "shared"]
    manifest = latest_manifest(store, BUCKET)
    assert manifest == shown_receipt(store, BUCKET)
    assert manifest.counters["thing"][Outcome.DELIVERED] == manifest.ids
    assert manifest.counters["thing"][Outcome.DUPLICATE].count == workers - 1


class Failing(Directory):
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


def test_commit__crash_at_any_write(tmp_path, new_id) -> None:
    """After a crash at any write, readers see the version before or after it, and the next commit recovers it."""
    stopped = 0
    for step in range(20):
        store = Failing(tmp_path / str(step))
        commit(store, BUCKET, combine([written(store, new_id, "a")]), True, clock, new_id)
        committable = combine([written(store, new_id, "a", "b")])
        store.writes_left = step
        try:
            commit(store, BUCKET, committable, True, clock, new_id)
        except StoreError:
            stopped += 1
        assert ids_in_files(store) in (["a"], ["a", "b"])
        in_folder = {name for name in store.list(f"{BUCKET.folder}/part-") if name.endswith(".avro")}
        committed = {f"{BUCKET.folder}/{data_file.name}" for data_file in latest_manifest(store, BUCKET).data_files}
        assert in_folder <= committed

        store.writes_left = 10_000
        had_committed = latest_manifest(store, BUCKET).version == 2
        commit(store, BUCKET, CLOSE_CHECK, True, clock, new_id)
        assert ids_in_files(store) == (["a", "b"] if had_committed else ["a"])
        commit(store, BUCKET, combine([written(store, new_id, "a", "b")]), True, clock, new_id)
        assert ids_in_files(store) == ["a", "b"]
    # _SUCCESS of the earlier version, then turn, version, turn, index, file, _RECEIPT.json, _SUCCESS
    assert stopped == 8


def test_commit__replaced_index(store, new_id) -> None:
    """An index whose content is not the committed one is named in an error, and nothing is committed."""
    manifest = commit(store, BUCKET, combine([written(store, new_id, "a")]), False, clock, new_id)
    name = f"{BUCKET.folder}/{manifest.data_files[0].index_name}"
    store.write(name, bytes(16))
    with pytest.raises(StoreError, match=name):
        commit(store, BUCKET, combine([written(store, new_id, "a")]), False, clock, new_id)
    assert latest_manifest(store, BUCKET) == manifest
