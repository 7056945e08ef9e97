"""Commit: makes a contribution part of its bucket, once, whatever else writes to the stream's buckets at the same time.

Who wants to add files takes a turn (`storage.buckets.commit_log`), takes out what is delivered already, and creates the
receipt's next version; who loses that race begins again.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime
from functools import partial

from schemas.buckets import DEAD_LETTERS, Bucket
from storage.buckets.commit_log import Turn, last_turn, take_turn
from storage.buckets.committable import Contribution, combine
from storage.buckets.manifest import Receipt
from storage.buckets.manifest_store import finished_receipt, races, show
from storage.objects.base import AlreadyExists, Buckets
from transforms.dedup.conflicts import letters_part
from transforms.dedup.delivered_index import Delivered, delivered_of
from transforms.dedup.drop_duplicates import without_repeats


def commit(
    buckets: Buckets,
    bucket: Bucket,
    contribution: Contribution,
    close: bool,
    clock: Callable[[], datetime],
    new_id: Callable[[], str],
    delivered: Delivered,
) -> tuple[Receipt, ...]:
    """Adds the contribution, closes the bucket if asked for, and returns the newest receipt, whose files are all in place.

    Ids that are `delivered` are taken out of the contribution's files and counted as duplicates. Those that came with another
    payload become dead letters, whose receipt is returned as well: those that conflict with what is delivered are committed
    first; those that do with the contribution itself last, and the receipt keeps them. Repeating a commit changes nothing.
    Raises BucketsError or ReceiptError; a repeat then takes up where this one ended.
    """
    receipts: dict[Bucket, Receipt] = {}

    def refuse(letters: Contribution | None) -> None:
        if letters:
            dead = delivered_of(buckets, DEAD_LETTERS, delivered.horizon)
            [receipt] = commit(buckets, Bucket(DEAD_LETTERS, bucket.hour), letters, False, clock, new_id, dead)
            receipts[receipt.bucket] = receipt

    refused: set[str] = set()
    # In this process one waits for the other, rather than having to begin again.
    with delivered.turns if contribution.parts else nullcontext():
        for _ in races(bucket):
            turn = last_turn(buckets, bucket.stream) if contribution.parts and delivered.is_ordered else Turn()
            receipt = finished_receipt(buckets, bucket)
            if receipt.closed:
                show(buckets, receipt)
            addition = contribution
            if contribution.parts and not receipt.has(contribution):
                find = partial(delivered.find, turn, receipt)
                addition, letters, inner = without_repeats(buckets, bucket, contribution, new_id, find, delivered.horizon)
                found = [letter for letter in letters if letter.message_id not in refused]
                refuse(letters_part(buckets, bucket.hour, contribution.id, found, new_id))
                refused |= {letter.message_id for letter in found}
                own = letters_part(buckets, bucket.hour, f"{contribution.id}-inner", inner, new_id)
                addition = replace(addition, conflicts=_joined(contribution.conflicts, own))
            following = receipt.next(addition, clock(), close)
            if following is not receipt:
                if not _created(buckets, turn, following, ordered=bool(addition.parts) and delivered.is_ordered):
                    continue
                show(buckets, following)
            # Not before. Where a crash parts the two, messages may come again in another order: what was refused already, for
            # the sake of another that is not delivered yet, would come first and be delivered.
            committed = following.commit_of(contribution)
            refuse(committed.work.conflicts if committed else contribution.conflicts)
            return (following, *receipts.values())
    raise AssertionError("races end by a return or an error")


def _created(buckets: Buckets, turn: Turn, receipt: Receipt, ordered: bool) -> bool:
    if ordered:
        return take_turn(buckets, turn, receipt)
    try:
        buckets.create(receipt.bucket.version_name(receipt.version), receipt.to_json())
    except AlreadyExists:
        return False
    return True


def _joined(*conflicts: Contribution | None) -> Contribution | None:
    given = [one for one in conflicts if one]
    return combine(given) if given else None
