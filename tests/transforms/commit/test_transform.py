"""Buckets are committed in parallel: a failure in one does not affect others, and each keeps its order."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from apache_beam.utils.timestamp import Timestamp

from schemas.buckets import HOUR, Bucket
from schemas.fingerprints import Tally
from schemas.shards import Shard
from storage.buckets.committable import CLOSE_CHECK, Committable, DataFile
from storage.buckets.manifest_store import latest_manifest
from storage.objects.base import ObjectStore, StoreError
from storage.objects.local import Directory
from tests.support.clock import PATIENCE
from transforms.commit import transform as closing
from transforms.commit.commit import commit
from transforms.commit.transform import _Commit
from transforms.dedup.delivered_index import DeliveredIndexes
from transforms.parallel import AT_ONCE

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
SUBSCRIPTION = "projects/p/subscriptions/s"


def bucket_of(hour: int) -> Bucket:
    return Bucket("thing", NOON + HOUR * hour)


def counted(hour: int, number: int = 0) -> Committable:
    """Build a committable without files."""
    name = f"{hour}-{number}"
    return Committable(name, {"thing": {}}, packs=(f"pack {name}",))


def run(step: _Commit, *elements: tuple[Bucket, Committable, bool]) -> list[Any]:
    """Run one bundle and return its outputs."""
    step.start_bundle()
    for bucket, committable, is_last in elements:
        step.process((bucket.key, (committable.to_json(), is_last)))
    return step.finish_bundle()


@pytest.fixture
def store(tmp_path: Path) -> Directory:
    return Directory(tmp_path)


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The packs that were acknowledged, one list per call."""
    calls: list[list[str]] = []

    class RecordingLeases:
        def ack_packs(self, names: list[str]) -> None:
            calls.append(sorted(names))

    monkeypatch.setattr(closing, "leases_for", {SUBSCRIPTION: RecordingLeases()}.get)
    return calls


def step_for(store: ObjectStore) -> _Commit:
    delivered = DeliveredIndexes(store, timedelta(days=1))
    return _Commit(store, lambda: NOON + timedelta(days=9), delivered, SUBSCRIPTION, bounded=True)


def test_commit__one_bucket_fails(store: Directory, settled: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """If one bucket fails, all others are committed and their packs acknowledged."""

    def refuse(store: ObjectStore, bucket: Bucket, *more: Any) -> Any:
        if bucket == bucket_of(0):
            raise StoreError("broken")
        return commit(store, bucket, *more)

    monkeypatch.setattr(closing, "commit", refuse)
    hours = range(2 * AT_ONCE)
    with pytest.raises(StoreError, match="broken"):
        run(step_for(store), *((bucket_of(hour), counted(hour), False) for hour in hours))
    assert [latest_manifest(store, bucket_of(hour)).version for hour in hours] == [0] + [1] * (2 * AT_ONCE - 1)
    assert settled == [sorted(f"pack {hour}-0" for hour in hours if hour)]


def test_commit__output_timestamp(store: Directory, settled: list[list[str]]) -> None:
    """Each output has the timestamp of its bucket's hour."""
    outputs = run(step_for(store), *((bucket_of(hour), counted(hour), False) for hour in range(5)))
    assert [(output.value.bucket, output.timestamp) for output in outputs] == [
        (bucket_of(hour), Timestamp.of((NOON + HOUR * hour).timestamp())) for hour in range(5)
    ]


def test_commit__buckets_in_parallel(store: Directory, settled: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    barrier = threading.Barrier(AT_ONCE)

    def wait(*arguments: Any) -> Any:
        barrier.wait(PATIENCE)
        return commit(*arguments)

    monkeypatch.setattr(closing, "commit", wait)
    assert len(run(step_for(store), *((bucket_of(hour), counted(hour), False) for hour in range(AT_ONCE)))) == AT_ONCE


def test_commit__events_before_the_close_are_not_late(
    store: Directory, settled: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events that arrive before the check that closes the bucket are not late."""
    closed = threading.Event()

    def slow(store: ObjectStore, bucket: Bucket, committable: Committable, *more: Any) -> Any:
        if not committable.is_empty:
            # If one bucket's elements were processed in parallel, the close would come first.
            closed.wait(0.3)
            return commit(store, bucket, committable, *more)
        manifest = commit(store, bucket, committable, *more)
        closed.set()
        return manifest

    monkeypatch.setattr(closing, "commit", slow)
    bucket, index = bucket_of(0), store.write("staging/a.ids", b"")
    file = store.write("staging/a.avro", b"")
    data_file = DataFile("a.avro", Shard(0, 1), 0, file.crc32c, index.crc32c, Tally.of_ids(["a"]))
    committable = Committable("early", {"thing": {}}, data_files=(data_file,))
    run(step_for(store), (bucket, committable, False), (bucket, CLOSE_CHECK, True))
    manifest = latest_manifest(store, bucket)
    assert (manifest.closed, [commit.late for commit in manifest.commits]) == (True, [0])
