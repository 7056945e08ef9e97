"""Load: makes the hour's partition of a table hold exactly the rows of a receipt's files."""

from __future__ import annotations

from hashlib import sha256

from schemas.receipts import Receipt
from schemas.tables import Table
from transforms.buckets import Buckets
from transforms.commit import newest_receipt
from transforms.tables import LoadFailed, Tables, TablesError

ATTEMPTS = 3
"""Load jobs that may fail anew before a run gives up on a partition. Ids that earlier runs used up do not count."""


def load(tables: Tables, table: Table, buckets: Buckets, receipt: Receipt) -> int:
    """Replaces the partition by the receipt's files, and returns its rows. The table must be there.

    If a newer receipt has come meanwhile, its files are loaded after: who ends last has looked last. An empty bucket needs no
    load: a receipt never loses files, so nothing was ever loaded. Raises TablesError, and leaves the partition as it was.
    """
    if not receipt.parts:
        return 0
    before = ""
    while True:
        rows = _attempt(tables, table, buckets, receipt, before)
        if rows != receipt.ids.count:
            raise TablesError(
                f"{receipt.bucket.folder}: {rows} rows went into {table.name}, but its receipt has {receipt.ids.count}"
            )
        newest = newest_receipt(buckets, receipt.bucket)
        if _digest(newest) == _digest(receipt):
            return rows
        before, receipt = _digest(receipt), newest


def _attempt(tables: Tables, table: Table, buckets: Buckets, receipt: Receipt, before: str) -> int:
    files = [f"{receipt.bucket.folder}/{part.name}" for part in receipt.parts]
    attempt = failures = 0
    while True:
        try:
            return tables.load(job_id(receipt, before, attempt), table, receipt.bucket.hour, buckets, files)
        except LoadFailed as failure:
            attempt += 1
            failures += not failure.earlier
            if failures == ATTEMPTS:
                raise


def job_id(receipt: Receipt, before: str, attempt: int) -> str:
    """The id of a load: the same for every version of the receipt that lists the same files.

    before: the digest of the files whose load this one corrects, because it ended after a newer one's; empty otherwise.
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
