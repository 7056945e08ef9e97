"""Load: makes the hour's partition of a table hold exactly the rows of a manifest's files."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from hashlib import sha256

from google.api_core.retry import exponential_sleep_generator

from schemas.errors import with_list
from schemas.tables import Table
from storage.buckets.manifest import Manifest
from storage.buckets.manifest_store import finished_receipt
from storage.objects.base import ObjectStore
from storage.tables.base import LoadError, LoadJobFailed, TableStore, TableStoreError

ATTEMPTS = 3
"""Load jobs that may fail by passing faults before a run gives up on a partition. Those of earlier runs do not count."""

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
"""Seconds between them: a bound that doubles, and the pause drawn below it."""


def load(
    tables: TableStore,
    table: Table,
    store: ObjectStore,
    manifest: Manifest,
    again: str = "",
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Replaces the partition by the files of the manifest, or of a newer one, if there is one by now; marks it as loaded, and
    returns its rows. The table is there.

    What was loaded is not loaded again, but for once for each `again`, a word of letters and digits: for a partition that has
    lost what it held. If a newer manifest has come meanwhile, its files are loaded after: who ends last has looked last.
    An empty bucket needs no load: a manifest never loses files, so nothing was ever loaded.

    Raises LoadJobFailed and leaves the partition as it was; or LoadError where the files do not hold the rows that the manifest
    lists: then the partition holds theirs, and a load of these files comes with another `again` only. TableStoreError
    otherwise. A manifest that is not loaded is not marked, so the next run looks at it again
    (`storage.buckets.listing.open_hours`).
    """
    # Never an old one while a newer one is there: its load would take back what may be marked as loaded already, and nobody
    # would look again if this process were stopped then.
    manifest = max(manifest, finished_receipt(store, manifest.bucket), key=lambda one: one.version)
    before = again
    while manifest.data_files:
        rows = _attempt(tables, table, store, manifest, before, sleep)
        if rows != manifest.ids.count:
            raise LoadError(
                f"{manifest.bucket.folder}: {rows} rows went into {table.name}, but its manifest has {manifest.ids.count}: "
                "a file there is not the one that was committed. "
                "What to do: restore it, then run python -m pipelines.reload for this hour"
            )
        newest = finished_receipt(store, manifest.bucket)
        if _digest(newest) == _digest(manifest):
            manifest = newest
            break
        before, manifest = f"{again}{_digest(manifest)}", newest
    if manifest.version:
        store.create(manifest.bucket.loaded_name(manifest.version), b"")
    return manifest.ids.count


def not_loaded(failures: Sequence[str]) -> TableStoreError:
    """One error for all the partitions that could not be loaded, from what LoadError said of each."""
    lines = sorted(failures)
    number = "1 partition" if len(lines) == 1 else f"{len(lines)} partitions"
    head = f"{number} could not be loaded; all others were. No event is lost, and the next run loads them:"
    return TableStoreError(with_list(head, lines))


def _attempt(
    tables: TableStore, table: Table, store: ObjectStore, manifest: Manifest, before: str, sleep: Callable[[float], None]
) -> int:
    files = [f"{manifest.bucket.folder}/{data_file.name}" for data_file in manifest.data_files]
    pauses = exponential_sleep_generator(FIRST_PAUSE, LONGEST_PAUSE)
    attempt = failures = 0
    while True:
        try:
            return tables.load(job_id(manifest, before, attempt), table, manifest.bucket.hour, store, files)
        except LoadJobFailed as failure:
            attempt += 1
            if failure.already_failed:
                continue
            failures += 1
            if failures == ATTEMPTS or not failure.transient:
                raise
            sleep(next(pauses))


def job_id(manifest: Manifest, before: str, attempt: int) -> str:
    """The id of a load: the same for every version of the manifest that lists the same files.

    before: what tells this load from the first one of these files: the `again` that asked for it, the digest of the files
    whose load this one corrects, because it ended after a newer one's, or both; empty otherwise.
    """
    words = [
        "load",
        manifest.bucket.stream,
        f"{manifest.bucket.hour:%Y%m%d%H}",
        _digest(manifest),
        *([before] if before else []),
        attempt,
    ]
    return "-".join(map(str, words))


def _digest(manifest: Manifest) -> str:
    return sha256("\n".join(sorted(data_file.name for data_file in manifest.data_files)).encode()).hexdigest()[:32]
