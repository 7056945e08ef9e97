"""Versions of receipts: which one readers see, which is the newest, and how the newest comes to be seen.

The versions of a receipt are objects that are created only if absent. Only what a version lists is moved from staging into the
bucket's folder, so the folder never shows a file of a lost attempt. `_RECEIPT.json` and `_SUCCESS` follow the files. Whoever
looks at a bucket finishes what a crash has left undone there.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from google.api_core.retry import exponential_sleep_generator

from schemas.buckets import STAGING, Bucket
from storage.buckets.manifest import Receipt, ReceiptError
from storage.objects.base import AlreadyExists, Buckets, BucketsError, Changed, Damaged, NotFound

DAMAGE = (ReceiptError, Damaged, NotFound)
"""What says that objects of one bucket are broken or gone. Other buckets are concerned only as far as they have to ask it."""

MAX_RACES = 100
"""So many times in a row somebody else may write a bucket's objects first; then something is wrong."""

FIRST_PAUSE, LONGEST_PAUSE = 0.01, 1.0
"""Seconds between them: a bound that doubles, and the pause drawn below it."""


def races(bucket: Bucket) -> Iterator[None]:
    """Goes on for as long as it makes sense to try what somebody else was first to do, with pauses. Then BucketsError."""
    pauses = exponential_sleep_generator(FIRST_PAUSE, LONGEST_PAUSE)
    for _ in range(MAX_RACES):
        yield
        time.sleep(next(pauses))
    raise BucketsError(
        f"{bucket.folder}: somebody else was first to write {MAX_RACES} times in a row. Is another job stuck in a loop?"
    )


def shown_receipt(buckets: Buckets, bucket: Bucket) -> Receipt:
    """What readers see: the receipt in `_RECEIPT.json`, whose files are all in place; version 0 where there is none."""
    return _shown(buckets, bucket)[0]


def newest_receipt(buckets: Buckets, bucket: Bucket) -> Receipt:
    """The newest committed version, which a crash may have left ahead of `_RECEIPT.json`; version 0 where there is none."""
    return _newest(buckets, shown_receipt(buckets, bucket))


def finished_receipt(buckets: Buckets, bucket: Bucket) -> Receipt:
    """The newest committed version, with its files in place."""
    shown = shown_receipt(buckets, bucket)
    newest = _newest(buckets, shown)
    if newest.version != shown.version:
        show(buckets, newest)
    return newest


def show(buckets: Buckets, receipt: Receipt) -> None:
    """Moves the receipt's files into place, then shows the receipt, then marks the bucket if it is closed. Repeatable."""
    bucket = receipt.bucket
    for _ in races(bucket):
        shown, generation = _shown(buckets, bucket)
        if shown.version >= receipt.version:
            break
        in_place = {part.name for part in shown.parts} | {file.name for file in shown.elsewhere}
        for file in receipt.elsewhere:
            if file.name not in in_place:
                buckets.publish(f"{STAGING}/{file.name}", f"{bucket.folder}/{file.name}")
        for part in receipt.parts:
            if part.name not in in_place:
                # The index first: a file without one would be read by people and not by us.
                buckets.publish(f"{STAGING}/{part.index_name}", f"{bucket.folder}/{part.index_name}")
                buckets.publish(f"{STAGING}/{part.name}", f"{bucket.folder}/{part.name}")
        try:
            if generation:
                buckets.replace(bucket.receipt_name, receipt.to_json(), generation)
            else:
                buckets.create(bucket.receipt_name, receipt.to_json())
            break
        except (AlreadyExists, Changed):
            pass
    if receipt.closed:
        buckets.create(bucket.success_name, b"")


def _shown(buckets: Buckets, bucket: Bucket) -> tuple[Receipt, int]:
    try:
        data, stored = buckets.read(bucket.receipt_name)
    except NotFound:
        return Receipt(bucket), 0
    return _read(data, bucket.receipt_name, bucket), stored.generation


def _newest(buckets: Buckets, receipt: Receipt) -> Receipt:
    while True:
        name = receipt.bucket.version_name(receipt.version + 1)
        try:
            data, _ = buckets.read(name)
        except NotFound:
            return receipt
        receipt = _read(data, name, receipt.bucket)


def _read(data: bytes, name: str, bucket: Bucket) -> Receipt:
    receipt = Receipt.from_json(data, name)
    if receipt.bucket != bucket:
        raise ReceiptError(f"{name} is another bucket's receipt. Restore the right one from a copy.")
    return receipt
