"""A manifest's files become the partition, whatever order the loads end in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from apache_beam import DoFn
from apache_beam.utils.windowed_value import WindowedValue

from schemas.buckets import STAGING, Bucket
from schemas.fingerprints import Tally
from schemas.shards import Shard
from schemas.tables import Table
from storage.buckets.committable import Committable, DataFile
from storage.buckets.manifest import Manifest
from storage.objects.base import ObjectStore
from storage.objects.local import Directory
from storage.tables.base import LoadError, LoadJobFailed, RowCounts
from transforms.load.load import ATTEMPTS, LONGEST_PAUSE, load, not_loaded
from transforms.load.transform import PAUSE_SECONDS, _Load

HOUR = datetime(2026, 1, 31, 9, tzinfo=UTC)
BUCKET = Bucket("thing", HOUR)
TABLE = Table("thing", (), "received_at", "event_id")


class Jobs:
    """Tables that only remember which files a partition holds. A job's id counts, as BigQuery counts it."""

    uri = "memory"

    def check_writable(self, store: ObjectStore) -> None: ...

    def ensure(self, table: Table) -> None: ...

    def row_counts(self, table: Table, first: datetime, last: datetime) -> Mapping[datetime, RowCounts]:
        return {}

    def __init__(self) -> None:
        self.partition: list[str] = []
        self.done: dict[str, int] = {}
        self.failed: set[str] = set()
        self.fail_next = 0
        self.transient = True
        self.run: list[str] = []

    def load(self, job_id: str, table: Table, hour: datetime, store: ObjectStore, files: Sequence[str]) -> int:
        if job_id in self.failed:
            raise LoadJobFailed("failed before", already_failed=True)
        if job_id not in self.done:
            self.run.append(job_id)
            if self.fail_next:
                self.fail_next -= 1
                self.failed.add(job_id)
                raise LoadJobFailed("failed", transient=self.transient)
            self.before_effect()
            self.partition = sorted(files)
            self.done[job_id] = len(files)
        return self.done[job_id]

    def before_effect(self) -> None:
        """What happens elsewhere while the job runs."""


def manifest_of(store: ObjectStore, *names: str) -> Manifest:
    """A committed manifest of one-row files."""
    manifest = Manifest(BUCKET)
    for name in names:
        data_file = staged(store, name)
        manifest = manifest.next(Committable(name, data_files=(data_file,)), HOUR, close=False)
        store.create(BUCKET.version_name(manifest.version), manifest.to_json())
    return manifest


def staged(store: ObjectStore, name: str) -> DataFile:
    """A one-row file, and its index, that are not yet in the bucket's folder."""
    for ending in ("avro", "ids"):
        store.write(f"{STAGING}/{name}.{ending}", b"")
    return DataFile(f"{name}.avro", Shard(0, 1), 1, 1, 1, Tally.of_ids([name]))


def paths(*names: str) -> list[str]:
    return [f"{BUCKET.folder}/{name}.avro" for name in names]


def test_the_partition_becomes_the_manifests_files_once(tmp_path: Path) -> None:
    store, jobs = Directory(tmp_path), Jobs()
    manifest = manifest_of(store, "a", "b")
    assert load(jobs, TABLE, store, manifest) == 2
    assert load(jobs, TABLE, store, manifest) == 2
    assert jobs.partition == paths("a", "b")
    assert len(jobs.run) == 1


def test_a_version_with_the_same_files_is_not_loaded_again(tmp_path: Path) -> None:
    store, jobs = Directory(tmp_path), Jobs()
    manifest = manifest_of(store, "a")
    load(jobs, TABLE, store, manifest)
    closed = manifest.next(Committable("counts only"), HOUR, close=True)
    store.create(BUCKET.version_name(2), closed.to_json())
    load(jobs, TABLE, store, closed)
    assert len(jobs.run) == 1


def test_an_empty_bucket_needs_no_load(tmp_path: Path) -> None:
    jobs = Jobs()
    store = Directory(tmp_path)
    assert load(jobs, TABLE, store, Manifest(BUCKET, version=1)) == 0
    assert jobs.run == []
    assert marked(store) == ["000001.loaded"]


def test_a_load_that_fails_once_is_tried_under_another_id(tmp_path: Path) -> None:
    store, jobs = Directory(tmp_path), Jobs()
    jobs.fail_next = 1
    assert load(jobs, TABLE, store, manifest_of(store, "a"), sleep=lambda _: None) == 1
    assert len(set(jobs.run)) == 2


def test_a_run_gives_up_after_some_failures_and_however_many_there_were_a_later_run_still_can(tmp_path: Path) -> None:
    store, jobs = Directory(tmp_path), Jobs()
    manifest = manifest_of(store, "a")
    pauses: list[float] = []
    for _ in range(5):
        jobs.fail_next = 100
        with pytest.raises(LoadJobFailed):
            load(jobs, TABLE, store, manifest, sleep=pauses.append)
    assert len(set(jobs.run)) == 5 * ATTEMPTS
    jobs.fail_next = 0
    assert load(jobs, TABLE, store, manifest, sleep=pauses.append) == 1
    assert jobs.partition == paths("a")
    assert len(pauses) == len(set(pauses)) == 5 * (ATTEMPTS - 1)
    assert all(0 < pause <= LONGEST_PAUSE for pause in pauses)


def test_a_load_that_fails_by_its_files_fault_is_not_tried_again_in_this_run(tmp_path: Path) -> None:
    store, jobs = Directory(tmp_path), Jobs()
    manifest = manifest_of(store, "a")
    jobs.fail_next, jobs.transient = 1, False
    with pytest.raises(LoadJobFailed):
        load(jobs, TABLE, store, manifest)
    assert len(jobs.run) == 1
    assert load(jobs, TABLE, store, manifest) == 1


def test_a_partition_that_has_lost_its_rows_is_loaded_again_once_where_that_is_asked_for(tmp_path: Path) -> None:
    store, jobs = Directory(tmp_path), Jobs()
    manifest = manifest_of(store, "a")
    load(jobs, TABLE, store, manifest)
    jobs.partition = []
    load(jobs, TABLE, store, manifest)
    assert jobs.partition == []
    for _ in range(2):
        assert load(jobs, TABLE, store, manifest, again="x1") == 1
        assert jobs.partition == paths("a")
    assert len(jobs.run) == 2


def marked(store: ObjectStore) -> list[str]:
    return [name.rpartition("/")[2] for name in store.list(f"{BUCKET.folder}/_receipts/") if name.endswith(".loaded")]


def test_a_manifest_is_marked_when_it_is_loaded_and_not_before(tmp_path: Path) -> None:
    store, jobs = Directory(tmp_path), Jobs()
    first = manifest_of(store, "a")
    jobs.before_effect = lambda: unmarked.extend(marked(store))  # type: ignore[method-assign]
    unmarked: list[str] = []
    jobs.fail_next, jobs.transient = 1, False
    with pytest.raises(LoadJobFailed):
        load(jobs, TABLE, store, first)
    assert marked(store) == []
    load(jobs, TABLE, store, first)
    assert unmarked == []
    assert marked(store) == ["000001.loaded"]
    closed = first.next(Committable("counts only"), HOUR, close=True)
    store.create(BUCKET.version_name(2), closed.to_json())
    load(jobs, TABLE, store, closed)
    assert marked(store) == ["000001.loaded", "000002.loaded"]


def test_an_old_load_that_ends_after_a_newer_one_does_not_win(tmp_path: Path) -> None:
    store = Directory(tmp_path)

    class Overtaken(Jobs):
        def before_effect(self) -> None:
            """While the load of the first version runs, a second version is committed and loaded."""
            self.before_effect = lambda: None  # type: ignore[method-assign]
            store.create(BUCKET.version_name(2), manifest_of_both.to_json())
            load(self, TABLE, store, manifest_of_both)

    first = manifest_of(store, "a")
    manifest_of_both = first.next(Committable("b", data_files=(staged(store, "b"),)), HOUR, close=False)
    jobs = Overtaken()
    assert load(jobs, TABLE, store, first) == 2
    assert jobs.partition == paths("a", "b")
    assert len(jobs.run) == 3
    # Whoever committed it may have moved nothing yet.
    assert all((tmp_path / path).exists() for path in jobs.partition)
    assert marked(store) == ["000002.loaded"]


def test_an_old_manifest_takes_back_nothing_even_for_a_moment(tmp_path: Path) -> None:
    """Whoever is stopped in that moment leaves a partition that is marked as loaded, and is not."""
    store, jobs = Directory(tmp_path), Jobs()
    first = manifest_of(store, "a")
    both = first.next(Committable("b", data_files=(staged(store, "b"),)), HOUR, close=False)
    store.create(BUCKET.version_name(2), both.to_json())
    for manifest in (both, first):
        assert load(jobs, TABLE, store, manifest) == 2
    assert len(jobs.run) == 1


def test_rows_that_are_not_those_of_the_manifest_are_an_error(tmp_path: Path) -> None:
    class Short(Jobs):
        def load(self, job_id: str, table: Table, hour: datetime, store: ObjectStore, files: Sequence[str]) -> int:
            return super().load(job_id, table, hour, store, files) - 1

    store = Directory(tmp_path)
    with pytest.raises(LoadError, match=r"1 rows went into thing, but its manifest has 2.*restore it.*pipelines\.reload"):
        load(Short(), TABLE, store, manifest_of(store, "a", "b"))
    assert marked(store) == []


def test_partitions_that_could_not_be_loaded_are_told_together_the_first_few_by_name() -> None:
    assert str(not_loaded(["b: broken", "a: broken"])).splitlines() == [
        "2 partitions could not be loaded; all others were. No event is lost, and the next run loads them:",
        "  a: broken",
        "  b: broken",
    ]
    assert str(not_loaded([f"{number}: broken" for number in range(8)])).splitlines()[-2:] == ["  4: broken", "  and 3 more"]


def test_an_engine_without_an_end_is_told_of_a_failure_but_not_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, jobs = Directory(tmp_path), Jobs()
    pauses: list[float] = []
    monkeypatch.setattr("transforms.load.transform.time.sleep", pauses.append)
    step = _Load(jobs, {"thing": TABLE}, store, ends=False, leased=None)
    manifest = manifest_of(store, "a")
    jobs.fail_next, jobs.transient = 1, False
    with pytest.raises(LoadJobFailed):
        bundle(step, manifest)
    assert pauses == [PAUSE_SECONDS]
    assert [given.value for given in bundle(step, manifest)] == [manifest]


def bundle(step: DoFn, *elements: object) -> list[WindowedValue]:
    """What a step gives for the elements, as an engine calls it."""
    step.start_bundle()
    for element in elements:
        step.process(element)
    return list(step.finish_bundle())
