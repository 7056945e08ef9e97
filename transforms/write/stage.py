"""Write the packs of one bucket and shard to staging, as data files that a committable describes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from io import BytesIO
from typing import Any

from fastavro import schemaless_reader

from schemas.buckets import Bucket
from schemas.counters import add_counters, add_reasons
from schemas.fingerprints import HASH_BYTES, Tally
from schemas.outcomes import Outcome
from schemas.shards import Shard
from storage.buckets.commit_log import Turn, last_turn
from storage.buckets.committable import Committable
from storage.buckets.duplicate_refs import entry, hour_number, published_for, write_elsewhere
from storage.buckets.id_index import Lookup, hashes, same_payload, split
from storage.buckets.manifest_store import finished_receipt
from storage.buckets.part_files import DataFileWriter
from storage.objects.base import ObjectStore
from transforms.clocks import new_id
from transforms.decode.packs import Pack, parse_count_key
from transforms.dedup.conflicts import conflicting_event_of, stage_conflicts
from transforms.dedup.delivered_index import DeliveredIndex


def stage_records(
    store: ObjectStore, bucket: Bucket, shard: Shard, packs: Iterable[bytes], schema: dict[str, Any], delivered: DeliveredIndex
) -> Committable:
    """Write the packs' new records as a data file, and conflicting events as dead letters of the hour.

    Only ids that are delivered by now are dropped. The commit looks them up again; this look-up spares it from rewriting most
    files.

    Raises:
        StoreError, ManifestError: The bucket, or one within the dedup horizon, can't be read, or staging can't be written.
    """
    turn = last_turn(store, bucket.stream) if delivered.is_ordered else Turn()
    find = partial(delivered.find, turn, finished_receipt(store, bucket), shard)
    committable, conflicting = write_data_file(store, bucket, shard, packs, schema, find, new_id)
    rows: list[Any] = [schemaless_reader(BytesIO(record), schema, None) for record in conflicting]
    conflicts = stage_conflicts(store, bucket.hour, committable.id, list(map(conflicting_event_of, rows)), new_id)
    return replace(committable, conflicts=conflicts)


def write_data_file(
    store: ObjectStore,
    bucket: Bucket,
    shard: Shard,
    packs: Iterable[bytes],
    schema: dict[str, Any],
    find: Callable[[bytes], Lookup],
    new_id: Callable[[], str],
) -> tuple[Committable, list[bytes]]:
    """Write the packs' records to staging, except duplicates and conflicts. Readers see nothing until the commit.

    Args:
        find: Looks up concatenated index entries among the delivered ids.
        new_id: Returns a unique name, which no other attempt uses.

    Returns:
        The committable, which counts the outcome of each record but the conflicting ones.
        The conflicting records, whose ids were found with another payload.
    """
    seen: dict[bytes, bytes] = {}
    counters: dict[str, dict[Outcome, Tally]] = {}
    reasons: dict[str, dict[str, int]] = {}
    pack_ids: list[str] = []
    conflicting: list[bytes] = []
    elsewhere: set[bytes] = set()
    with DataFileWriter(schema) as writer:
        for data in packs:
            pack = Pack.from_bytes(data)
            pack_ids.append(pack.id)
            event_type, reason = parse_count_key(pack.count_key)
            entries, lookup = split(pack.entries), find(pack.entries)
            ids = [index_entry[:HASH_BYTES] for index_entry in entries]
            partitioned = _Partitioned(fresh=[pack.entries])
            if not lookup.delivered.any() and len(set(ids)) == len(ids) and seen.keys().isdisjoint(ids):
                seen.update(zip(ids, entries, strict=True))
                writer.add(pack.entries, pack.records)
            else:
                partitioned = _write_new_records(writer, bucket, pack, lookup, seen, is_event=not reason)
                conflicting += partitioned.conflicting
                elsewhere.update(partitioned.elsewhere)
            new, refused = (Tally.of_hashes(hashes(b"".join(parts))) for parts in (partitioned.fresh, partitioned.refused))
            outcome = Outcome.DEAD_LETTER if reason else Outcome.DELIVERED
            again = Tally.of_hashes(hashes(pack.entries)) - new - refused
            counters = add_counters(
                counters, {event_type: {Outcome.RECEIVED: pack.received - refused, outcome: new, Outcome.DUPLICATE: again}}
            )
            if reason and new.count:
                reasons = add_reasons(reasons, {event_type: {reason: new.count}})
        unique = new_id()
        data_file = writer.finish(store, bucket, shard, unique)
    files = write_elsewhere(store, shard, unique, elsewhere)
    return Committable(
        unique, counters, reasons, (data_file,) if data_file else (), tuple(pack_ids), elsewhere=files
    ), conflicting


@dataclass
class _Partitioned:
    """The records of a pack by their outcome. A record that is in none of the lists is a duplicate within its own hour."""

    fresh: list[bytes] = field(default_factory=list)
    """Index entries of the records that were written."""
    refused: list[bytes] = field(default_factory=list)
    """Index entries of the conflicting records."""
    conflicting: list[bytes] = field(default_factory=list)
    """The conflicting records."""
    elsewhere: list[bytes] = field(default_factory=list)
    """References to duplicates that were delivered in another hour: see `storage.buckets.duplicate_refs`."""


def _write_new_records(
    writer: DataFileWriter, bucket: Bucket, pack: Pack, lookup: Lookup, seen: dict[bytes, bytes], *, is_event: bool
) -> _Partitioned:
    """Write the records of a pack whose ids are neither delivered nor in `seen`, and add them to `seen`."""
    result = _Partitioned()
    own_hour = hour_number(bucket.hour)
    for position, (index_entry, record) in enumerate(pack):
        digest = index_entry[:HASH_BYTES]
        first = seen.get(digest)
        if first is None and not lookup.delivered[position]:
            seen[digest] = index_entry
            result.fresh.append(index_entry)
            writer.add(index_entry, record)
        elif is_event and (lookup.conflicting[position] if first is None else not same_payload(first, index_entry)):
            result.refused.append(index_entry)
            result.conflicting.append(record)
        elif is_event and first is None and lookup.hour[position] != own_hour:
            result.elsewhere.append(entry(digest, published_for(record, bucket.hour), int(lookup.hour[position])))
    return result
