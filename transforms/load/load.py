"""Load: makes the hour's partition of a table hold exactly the rows of a receipt's files."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from hashlib import sha256

from google.api_core.retry import exponential_sleep_generator

from schemas.tables import Table
from storage.buckets.manifest import Receipt
from storage.buckets.manifest_store import finished_receipt
from storage.objects.base import Buckets
from storage.tables.base import LoadFailed, NotLoaded, Tables, TablesError

ATTEMPTS = 3
"""Load jobs that may fail by passing faults before a run gives up on a partition. Those of earlier runs do not count."""

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
"""Seconds between them: a bound that doubles, and the pause drawn below it."""

NAMED = 5
"""So many partitions are named where more could not be loaded."""


def load(
    tables: Tables,
    table: Table,
    buckets: Buckets,
    receipt: Receipt,
    again: str = "",
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Replaces the partition by the files of the receipt, or of a newer one, if there is one by now; marks it as loaded, and
    returns its rows. The table is there.

    What was loaded is not loaded again, but for once for each `again`, a word of letters and digits: for a partition that has
    lost what it held. If a newer receipt has come meanwhile, its files are loaded after: who ends last has looked last.
    An empty bucket needs no load: a receipt never loses files, so nothing was ever loaded.

    Raises LoadFailed and leaves the partition as it was; or NotLoaded where the files do not hold the rows that the receipt
    lists: then the partition holds theirs, and a load of these files comes with another `again` only. TablesError otherwise.
    A receipt that is not loaded is not marked, so the next run looks at it again (`storage.buckets.listing.open_hours`).
    """
    # Never an old one while a newer one is there: its load would take back what may be marked as loaded already, and nobody
    # would look again if this process were stopped then.
    receipt = max(receipt, finished_receipt(buckets, receipt.bucket), key=lambda one: one.version)
    before = again
    while receipt.parts:
        rows = _attempt(tables, table, buckets, receipt, before, sleep)
        if rows != receipt.ids.count:
            raise NotLoaded(
                f"{receipt.bucket.folder}: {rows} rows went into {table.name}, but its receipt has {receipt.ids.count}: "
                "a file there is not the one that was committed. Restore it, then run python -m pipelines.reload for this hour"
            )
        newest = finished_receipt(buckets, receipt.bucket)
        if _digest(newest) == _digest(receipt):
            receipt = newest
            break
        before, receipt = f"{again}{_digest(receipt)}", newest
    if receipt.version:
        buckets.create(receipt.bucket.loaded_name(receipt.version), b"")
    return receipt.ids.count


def not_loaded(failures: Sequence[str]) -> TablesError:
    """One error for all the partitions that could not be loaded, from what NotLoaded said of each."""
    lines = sorted(failures)
    more = [f"and {len(lines) - NAMED} more"] if len(lines) > NAMED else []
    number = "1 partition" if len(lines) == 1 else f"{len(lines)} partitions"
    head = f"{number} could not be loaded; all others were. Nothing is lost, and the next run tries again:"
    return TablesError("\n  ".join([head, *lines[:NAMED], *more]))


def _attempt(
    tables: Tables, table: Table, buckets: Buckets, receipt: Receipt, before: str, sleep: Callable[[float], None]
) -> int:
    files = [f"{receipt.bucket.folder}/{part.name}" for part in receipt.parts]
    pauses = exponential_sleep_generator(FIRST_PAUSE, LONGEST_PAUSE)
    attempt = failures = 0
    while True:
        try:
            return tables.load(job_id(receipt, before, attempt), table, receipt.bucket.hour, buckets, files)
        except LoadFailed as failure:
            attempt += 1
            if failure.earlier:
                continue
            failures += 1
            if failures == ATTEMPTS or not failure.passing:
                raise
            sleep(next(pauses))


def job_id(receipt: Receipt, before: str, attempt: int) -> str:
    """The id of a load: the same for every version of the receipt that lists the same files.

    before: what tells this load from the first one of these files: the `again` that asked for it, the digest of the files
    whose load this one corrects, because it ended after a newer one's, or both; empty otherwise.
    """
    words = [
        "load",
        receipt.bucket.stream,
        f"{receipt.bucket.hour:%Y%m%d%H}",
        _digest(receipt),
        *([before] if before else []),
        attempt,
    ]
    return "-".join(map(str, words))


def _digest(receipt: Receipt) -> str:
    return sha256("\n".join(sorted(part.name for part in receipt.parts)).encode()).hexdigest()[:32]
