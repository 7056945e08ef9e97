"""Loads replace a partition by the files of a manifest, in whatever order the jobs end."""

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
    """A table store that only remembers which files a partition holds. Like BigQuery, it runs a job id once."""

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
        """Hook that runs while a job runs, before it takes effect."""


def manifest_of(store: ObjectStore, *names: str) -> Manifest:
    """Commit one-row files, one version each, and return the last manifest."""
    manifest = Manifest(BUCKET)
    for name in names:
        data_file = staged(store, name)
        manifest = manifest.next(Committable(name, data_files=(data_file,)), HOUR, close=False)
        store.create(BUCKET.version_name(manifest.version), manifest.to_json())
    return manifest


def staged(store: ObjectStore, name: str) -> DataFile:
    """Stage a one-row file with its index."""
    for ending in ("avro", "ids"):
        store.write(f"{STAGING}/{name}.{ending}", b"")
    return DataFile(f"{name}.avro", Shard(0, 1), 1, 1, 1, Tally.of_ids([name]))


def paths(*names: str) -> list[str]:
    return [f"{BUCKET.folder}/{name}.avro" for name in names]


def test_load__is_idempotent(tmp_path: Path) -> None:
    """The partition becomes the manifest's files, by one job, however often it is loaded."""
    store, jobs = Directory(tmp_path), Jobs()
    manifest = manifest_of(store, "a", "b")
    assert load(jobs, TABLE, store, manifest) == 2
    assert load(jobs, TABLE, store, manifest) == 2
    assert jobs.partition == paths("a", "b")
    assert len(jobs.run) == 1


def test_load__version_with_the_same_files(tmp_path: Path) -> None:
    """A version with the same files as the last one is not loaded again."""
    store, jobs = Directory(tmp_path), Jobs()
    manifest = manifest_of(store, "a")
    load(jobs, TABLE, store, manifest)
    closed = manifest.next(Committable("counts only"), HOUR, close=True)
    store.create(BUCKET.version_name(2), closed.to_json())
    load(jobs, TABLE, store, closed)
    assert len(jobs.run) == 1


def test_load__empty_bucket(tmp_path: Path) -> None:
    """An empty bucket needs no job and is marked as loaded."""
    jobs = Jobs()
    store = Directory(tmp_path)
    assert load(jobs, TABLE, store, Manifest(BUCKET, version=1)) == 0
    assert jobs.run == []
    assert marked(store) == ["000001.loaded"]


def test_load__retry_has_a_new_job_id(tmp_path: Path) -> None:
    """A load that fails once is retried under another job id."""
    store, jobs = Directory(tmp_path), Jobs()
    jobs.fail_next = 1
    assert load(jobs, TABLE, store, manifest_of(store, "a"), sleep=lambda _: None) == 1
    assert len(set(jobs.run)) == 2


def test_load__later_run_after_many_failures(tmp_path: Path) -> None:
    """A run gives up after ATTEMPTS failures; a later run can still load, however many there were."""
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


def test_load__permanent_failure(tmp_path: Path) -> None:
    """A load that fails because of its files is not retried in this run."""
    store, jobs = Directory(tmp_path), Jobs()
    manifest = manifest_of(store, "a")
    jobs.fail_next, jobs.transient = 1, False
    with pytest.raises(LoadJobFailed):
        load(jobs, TABLE, store, manifest)
    assert len(jobs.run) == 1
    assert load(jobs, TABLE, store, manifest) == 1


def test_load__force_key(tmp_path: Path) -> None:
    """A partition that has lost its rows is loaded again only with a new force key, and once per key."""
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


def test_load__marks_after_success(tmp_path: Path) -> None:
    """A manifest is marked as loaded after its load, not before."""
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


def test_load__older_load_ends_last(tmp_path: Path) -> None:
    """An older load that ends after a newer one does not win: the newer manifest is loaded again."""
    store = Directory(tmp_path)

    class Overtaken(Jobs):
        def before_effect(self) -> None:
            """Commit and load version 2 while the load of version 1 runs."""
            self.before_effect = lambda: None  # type: ignore[method-assign]
            store.create(BUCKET.version_name(2), manifest_of_both.to_json())
            load(self, TABLE, store, manifest_of_both)

    first = manifest_of(store, "a")
    manifest_of_both = first.next(Committable("b", data_files=(staged(store, "b"),)), HOUR, close=False)
    jobs = Overtaken()
    assert load(jobs, TABLE, store, first) == 2
    assert jobs.partition == paths("a", "b")
    assert len(jobs.run) == 3
    # The process that committed version 2 may not have moved its files out of staging yet.
    assert all((tmp_path / path).exists() for path in jobs.partition)
    assert marked(store) == ["000002.loaded"]


def test_load__older_manifest(tmp_path: Path) -> None:
    """Loading an older manifest never removes rows, not even briefly.

    A process that is killed in between would leave a partition that is marked as loaded and lacks rows.
    """
    store, jobs = Directory(tmp_path), Jobs()
    first = manifest_of(store, "a")
    both = first.next(Committable("b", data_files=(staged(store, "b"),)), HOUR, close=False)
    store.create(BUCKET.version_name(2), both.to_json())
    for manifest in (both, first):
        assert load(jobs, TABLE, store, manifest) == 2
    assert len(jobs.run) == 1


def test_load__row_count_mismatch(tmp_path: Path) -> None:
    """Loaded rows that differ in number from the manifest's are an error, and the version is not marked."""

    class Short(Jobs):
        def load(self, job_id: str, table: Table, hour: datetime, store: ObjectStore, files: Sequence[str]) -> int:
            return super().load(job_id, table, hour, store, files) - 1

    store = Directory(tmp_path)
    with pytest.raises(LoadError, match=r"1 rows went into thing, but its manifest has 2.*restore it.*pipelines\.reload"):
        load(Short(), TABLE, store, manifest_of(store, "a", "b"))
    assert marked(store) == []


def test_not_loaded__names_the_first_few() -> None:
    """Partitions that could not be loaded are listed in one error, the first few by name."""
    assert str(not_loaded(["b: broken", "a: broken"])).splitlines() == [
        "2 partitions could not be loaded; all others were. No event is lost, and the next run loads them:",
        "  a: broken",
        "  b: broken",
    ]
    assert str(not_loaded([f"{number}: broken" for number in range(8)])).splitlines()[-2:] == ["  4: broken", "  and 3 more"]


def test_load_step__unbounded_runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an unbounded run the step pauses before it raises, so that the runner does not retry at once."""
    store, jobs = Directory(tmp_path), Jobs()
    pauses: list[float] = []
    monkeypatch.setattr("transforms.load.transform.time.sleep", pauses.append)
    step = _Load(jobs, {"thing": TABLE}, store, bounded=False, leased_subscription=None)
    manifest = manifest_of(store, "a")
    jobs.fail_next, jobs.transient = 1, False
    with pytest.raises(LoadJobFailed):
        bundle(step, manifest)
    assert pauses == [PAUSE_SECONDS]
    assert [output.value for output in bundle(step, manifest)] == [manifest]


def bundle(step: DoFn, *elements: object) -> list[WindowedValue]:
    """Process the elements in one bundle, as a runner does, and return its outputs."""
    step.start_bundle()
    for element in elements:
        step.process(element)
    return list(step.finish_bundle())
