"""Repeats: ids that a bucket holds already are taken out of files that are about to be committed to it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import fastavro

from schemas.buckets import DEAD_LETTERS, STAGING, Bucket
from schemas.fingerprints import HASH_BYTES, Tally, id_hash
from schemas.outcomes import Exit
from schemas.receipts import Contribution, Part, Reasons, Receipt, add_reasons
from schemas.reports import Books, add_books
from schemas.rows import encoder
from transforms.buckets import Buckets
from transforms.parts import PartWriter, delivered_ids, read_index, read_marks


def without_repeats(buckets: Buckets, receipt: Receipt, contribution: Contribution, new_id: Callable[[], str]) -> Contribution:
    """The contribution without rows whose ids the receipt's files hold, or an earlier file of its own; they become duplicates.

    Its files lie in staging. One that loses rows is written anew under another name; the others are only looked at, by
    their indexes, and not even that where nothing of their shard is there.
    """
    bucket = receipt.bucket
    result = replace(contribution, parts=())
    for part in contribution.parts:
        delivered = delivered_ids(buckets, receipt, part.shard)
        for earlier in result.parts:
            if earlier.shard.meets(part.shard):
                delivered.update(read_index(buckets, STAGING, earlier))
        repeated = delivered.intersection(read_index(buckets, STAGING, part)) if delivered else set()
        if repeated:
            result = _rewritten(buckets, bucket, result, part, repeated, new_id())
        else:
            result = replace(result, parts=(*result.parts, part))
    return result


def _rewritten(
    buckets: Buckets, bucket: Bucket, result: Contribution, part: Part, repeated: Collection[bytes], unique: str
) -> Contribution:
    dead = bucket.stream == DEAD_LETTERS
    way = Exit.DEAD_LETTER if dead else Exit.DELIVERED
    books: Books = result.books
    reasons: Reasons = result.reasons
    marks = {mark[:HASH_BYTES]: mark for mark in read_marks(buckets, STAGING, part)}
    with buckets.open(f"{STAGING}/{part.name}") as file:
        records: Any = fastavro.reader(file)
        schema = records.writer_schema
        writer, encode = PartWriter(schema), encoder(schema)
        for record in records:
            digest = id_hash(record["message_id" if dead else "event_id"])
            if digest not in repeated:
                writer.add(marks[digest], encode(record))
                continue
            kind, one = record["event_type"] or "", Tally.of_hashes(digest)
            books = add_books(books, {kind: {way: Tally() - one, Exit.DUPLICATE: one}})
            if dead:
                reasons = add_reasons(reasons, {kind: {record["reason"]: -1}})
    kept = writer.finish(buckets, bucket, part.shard, unique)
    return replace(result, books=books, reasons=reasons, parts=(*result.parts, kept) if kept else result.parts)
