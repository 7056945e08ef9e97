"""Commit: makes a contribution part of its bucket, once, whatever else writes to the bucket at the same time.

The versions of a receipt are objects that are created only if absent. Who wants to add something reads the newest version,
takes out what is delivered already, and creates the next version; who loses that race begins again. Only what a version
lists is moved from staging into the bucket's folder, so the folder never shows a file of a lost attempt. `_RECEIPT.json`
and `_SUCCESS` follow the files. Whoever looks at a bucket finishes what a crash has left undone there.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from schemas.buckets import STAGING, Bucket
from schemas.receipts import Contribution, Receipt, ReceiptError
from transforms.buckets import AlreadyExists, Buckets, BucketsError, Changed, Damaged, NotFound
from transforms.repeats import without_repeats

MAX_RACES = 100
"""So many times in a row somebody else may commit to the bucket first; then something is wrong."""


DAMAGE = (ReceiptError, Damaged, NotFound)
"""What says that objects of one bucket are broken or gone. No other bucket is concerned."""


def shown_receipt(buckets: Buckets, bucket: Bucket) -> Receipt:
    """What readers see: the receipt in `_RECEIPT.json`, whose files are all in place; version 0 where there is none."""
    return _shown(buckets, bucket)[0]


def newest_receipt(buckets: Buckets, bucket: Bucket) -> Receipt:
    """The newest committed version, which a crash may have left ahead of `_RECEIPT.json`; version 0 where there is none."""
    return _newest(buckets, shown_receipt(buckets, bucket))


def commit(
    buckets: Buckets,
    bucket: Bucket,
    contribution: Contribution,
    close: bool,
    clock: Callable[[], datetime],
    new_id: Callable[[], str],
) -> Receipt:
    """Adds the contribution, closes the bucket if asked for, and returns the newest receipt, whose files are all in place.

    Ids that the bucket holds already are taken out of the contribution's files and counted as duplicates. Repeating a commit
    changes nothing. Raises BucketsError or ReceiptError; a repeat then takes up where this one ended.
    """
    for _ in range(MAX_RACES):
        receipt = newest_receipt(buckets, bucket)
        if receipt.version:
            _finish(buckets, receipt)
        addition = contribution if receipt.has(contribution) else without_repeats(buckets, receipt, contribution, new_id)
        following = receipt.next(addition, clock(), close)
        if following is receipt:
            return receipt
        try:
            buckets.create(bucket.version_name(following.version), following.to_json())
        except AlreadyExists:
            continue
        _finish(buckets, following)
        return following
    raise BucketsError(
        f"{bucket.folder}: somebody else committed first {MAX_RACES} times in a row. Is another job stuck in a loop?"
    )


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


def _finish(buckets: Buckets, receipt: Receipt) -> None:
    """Moves the receipt's files into place, then shows the receipt, then marks the bucket if it is closed. Repeatable."""
    bucket = receipt.bucket
    while True:
        shown, generation = _shown(buckets, bucket)
        if shown.version >= receipt.version:
            break
        in_place = {part.name for part in shown.parts}
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
            continue
    if receipt.closed:
        buckets.create(bucket.success_name, b"")
