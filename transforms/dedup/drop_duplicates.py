"""Repeats: ids that are delivered already are taken out of files that are about to be committed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from typing import Any

import fastavro
import numpy as np

from schemas.buckets import DEAD_LETTERS, STAGING, Bucket, hour_of
from schemas.counters import Books, Reasons, add_books, add_reasons
from schemas.fingerprints import HASH_BYTES, Tally, id_hash
from schemas.outcomes import Exit
from schemas.row_schemas import encoder
from schemas.shards import Shard
from storage.buckets.committable import Contribution, Part
from storage.buckets.duplicate_refs import entry, hour_number, write_elsewhere
from storage.buckets.id_index import MARK, MARK_BYTES, Found, Known, split
from storage.buckets.part_files import PartWriter, read_marks
from storage.objects.base import Buckets
from transforms.dedup.conflicts import Letter, letter_of


def without_repeats(
    buckets: Buckets,
    bucket: Bucket,
    contribution: Contribution,
    new_id: Callable[[], str],
    find: Callable[[Shard, bytes], Found],
    horizon: timedelta,
) -> tuple[Contribution, list[Letter], list[Letter]]:
    """The contribution without rows whose ids are delivered, or are in an earlier file of its own, and what conflicts.

    Such rows become duplicates; those with another payload are given as dead letters, and do not count in this contribution at
    all: first those that conflict with what is delivered, then those that only do with the contribution's own files, which may
    not be refused before these are committed. Its files lie in staging. One that loses rows is written anew under another name;
    the others are only looked at, by their indexes. find: which marks of a shard are delivered.
    """
    result = replace(contribution, parts=())
    letters: list[Letter] = []
    inner: list[Letter] = []
    own = Known(horizon)
    for part in contribution.parts:
        marks = read_marks(buckets, STAGING, part)
        before, beside = find(part.shard, marks), own.find(bucket.hour, marks)
        repeated = before.repeated | beside.repeated
        if repeated.any():
            held = np.where(before.repeated, before.held, beside.held)
            found = Found(repeated, before.conflicting | beside.conflicting, held)
            result, kept, conflicts = _rewritten(buckets, bucket, result, part, marks, found, new_id())
            firm = {one[:HASH_BYTES] for one, known in zip(split(marks), before.repeated, strict=True) if known}
            letters += [letter for digest, letter in conflicts if digest in firm]
            inner += [letter for digest, letter in conflicts if digest not in firm]
        else:
            kept = part
        if kept:
            result = replace(result, parts=(*result.parts, kept))
        # Not what was taken out: it is nowhere, and so nothing repeats it.
        own.add(bucket.hour, np.frombuffer(marks, MARK)[~repeated].tobytes())
    return result, letters, inner


def _rewritten(
    buckets: Buckets, bucket: Bucket, result: Contribution, part: Part, marks: bytes, found: Found, unique: str
) -> tuple[Contribution, Part | None, list[tuple[bytes, Letter]]]:
    dead = bucket.stream == DEAD_LETTERS
    way = Exit.DEAD_LETTER if dead else Exit.DELIVERED
    by_id = {one[:HASH_BYTES]: at for at, one in enumerate(split(marks))}
    books: Books = result.books
    reasons: Reasons = result.reasons
    letters: list[tuple[bytes, Letter]] = []
    elsewhere: set[bytes] = set()
    with ExitStack() as stack:
        records: Any = fastavro.reader(stack.enter_context(buckets.open(f"{STAGING}/{part.name}")))
        schema = records.writer_schema
        writer, encode = stack.enter_context(PartWriter(schema)), encoder(schema)
        for record in records:
            digest = id_hash(record["message_id" if dead else "event_id"])
            at = by_id[digest]
            if not found.repeated[at]:
                writer.add(marks[at * MARK_BYTES : (at + 1) * MARK_BYTES], encode(record))
                continue
            kind, one = record["event_type"] or "", Tally.of_hashes(digest)
            if found.conflicting[at] and not dead:
                letters.append((digest, letter_of(record)))
                books = add_books(books, {kind: {way: Tally() - one, Exit.RECEIVED: Tally() - one}})
                continue
            books = add_books(books, {kind: {way: Tally() - one, Exit.DUPLICATE: one}})
            if not dead and found.held[at] != hour_number(bucket.hour):
                elsewhere.add(entry(digest, hour_of(record["skewed_from"] or bucket.hour), int(found.held[at])))
            if dead:
                reasons = add_reasons(reasons, {kind: {record["reason"]: -1}})
        kept = writer.finish(buckets, bucket, part.shard, unique)
    files = (*result.elsewhere, *write_elsewhere(buckets, part.shard, unique, elsewhere))
    return replace(result, books=books, reasons=reasons, elsewhere=files), kept, letters
