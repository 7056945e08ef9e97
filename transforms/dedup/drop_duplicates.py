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
from schemas.counters import Counters, Reasons, add_counters, add_reasons
from schemas.fingerprints import HASH_BYTES, Tally, id_hash
from schemas.outcomes import Outcome
from schemas.row_schemas import encoder
from schemas.shards import Shard
from storage.buckets.committable import Committable, DataFile
from storage.buckets.duplicate_refs import entry, hour_number, write_elsewhere
from storage.buckets.id_index import ENTRY_BYTES, INDEX_ENTRY, IdIndex, Lookup, split
from storage.buckets.part_files import DataFileWriter, read_entries
from storage.objects.base import ObjectStore
from transforms.dedup.conflicts import ConflictingEvent, conflicting_event_of


def without_repeats(
    store: ObjectStore,
    bucket: Bucket,
    committable: Committable,
    new_id: Callable[[], str],
    find: Callable[[Shard, bytes], Lookup],
    horizon: timedelta,
) -> tuple[Committable, list[ConflictingEvent], list[ConflictingEvent]]:
    """The committable without rows whose ids are delivered, or are in an earlier file of its own, and what conflicts.

    Such rows become duplicates; those with another payload are given as dead letters, and do not count in this committable at
    all: first those that conflict with what is delivered, then those that only do with the committable's own files, which may
    not be refused before these are committed. Its files lie in staging. One that loses rows is written anew under another name;
    the others are only looked at, by their indexes. find: which index entries of a shard are delivered.
    """
    result = replace(committable, data_files=())
    events: list[ConflictingEvent] = []
    inner: list[ConflictingEvent] = []
    own = IdIndex(horizon)
    for data_file in committable.data_files:
        entries = read_entries(store, STAGING, data_file)
        before, beside = find(data_file.shard, entries), own.find(bucket.hour, entries)
        delivered = before.delivered | beside.delivered
        if delivered.any():
            hours = np.where(before.delivered, before.hour, beside.hour)
            lookup = Lookup(delivered, before.conflicting | beside.conflicting, hours)
            result, kept, conflicts = _rewrite_without(store, bucket, result, data_file, entries, lookup, new_id())
            firm = {one[:HASH_BYTES] for one, known in zip(split(entries), before.delivered, strict=True) if known}
            events += [event for digest, event in conflicts if digest in firm]
            inner += [event for digest, event in conflicts if digest not in firm]
        else:
            kept = data_file
        if kept:
            result = replace(result, data_files=(*result.data_files, kept))
        # Not what was taken out: it is nowhere, and so nothing repeats it.
        own.add(bucket.hour, np.frombuffer(entries, INDEX_ENTRY)[~delivered].tobytes())
    return result, events, inner


def _rewrite_without(
    store: ObjectStore, bucket: Bucket, result: Committable, data_file: DataFile, entries: bytes, lookup: Lookup, unique: str
) -> tuple[Committable, DataFile | None, list[tuple[bytes, ConflictingEvent]]]:
    dead = bucket.stream == DEAD_LETTERS
    outcome = Outcome.DEAD_LETTER if dead else Outcome.DELIVERED
    by_id = {one[:HASH_BYTES]: at for at, one in enumerate(split(entries))}
    counters: Counters = result.counters
    reasons: Reasons = result.reasons
    events: list[tuple[bytes, ConflictingEvent]] = []
    elsewhere: set[bytes] = set()
    with ExitStack() as stack:
        records: Any = fastavro.reader(stack.enter_context(store.open(f"{STAGING}/{data_file.name}")))
        schema = records.writer_schema
        writer, encode = stack.enter_context(DataFileWriter(schema)), encoder(schema)
        for record in records:
            digest = id_hash(record["message_id" if dead else "event_id"])
            at = by_id[digest]
            if not lookup.delivered[at]:
                writer.add(entries[at * ENTRY_BYTES : (at + 1) * ENTRY_BYTES], encode(record))
                continue
            kind, one = record["event_type"] or "", Tally.of_hashes(digest)
            if lookup.conflicting[at] and not dead:
                events.append((digest, conflicting_event_of(record)))
                counters = add_counters(counters, {kind: {outcome: Tally() - one, Outcome.RECEIVED: Tally() - one}})
                continue
            counters = add_counters(counters, {kind: {outcome: Tally() - one, Outcome.DUPLICATE: one}})
            if not dead and lookup.hour[at] != hour_number(bucket.hour):
                elsewhere.add(entry(digest, hour_of(record["skewed_from"] or bucket.hour), int(lookup.hour[at])))
            if dead:
                reasons = add_reasons(reasons, {kind: {record["reason"]: -1}})
        kept = writer.finish(store, bucket, data_file.shard, unique)
    files = (*result.elsewhere, *write_elsewhere(store, data_file.shard, unique, elsewhere))
    return replace(result, counters=counters, reasons=reasons, elsewhere=files), kept, events
