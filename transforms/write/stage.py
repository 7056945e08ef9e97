"""Contributing: what the packs of one bucket and shard add to it, written to staging."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from io import BytesIO
from typing import Any

from fastavro import schemaless_reader

from schemas.buckets import Bucket
from schemas.counters import add_books, add_reasons
from schemas.fingerprints import HASH_BYTES, Tally
from schemas.outcomes import Exit
from schemas.shards import Shard
from storage.buckets.commit_log import Turn, last_turn
from storage.buckets.committable import Contribution
from storage.buckets.duplicate_refs import entry, hour_number, published_for, write_elsewhere
from storage.buckets.id_index import Found, hashes, same_payload, split
from storage.buckets.manifest_store import finished_receipt
from storage.buckets.part_files import PartWriter
from storage.objects.base import Buckets
from transforms.clocks import new_id
from transforms.decode.packs import Pack, read_label
from transforms.dedup.conflicts import letter_of, letters_part
from transforms.dedup.delivered_index import Delivered


def contribute(
    buckets: Buckets, bucket: Bucket, shard: Shard, packs: Iterable[bytes], schema: dict[str, Any], delivered: Delivered
) -> Contribution:
    """Writes what is new in the packs, by what is known to be delivered now; what conflicts goes to the hour's dead letters.

    The commit will ask again: this keeps most files from having to be written twice.
    """
    turn = last_turn(buckets, bucket.stream) if delivered.is_ordered else Turn()
    find = partial(delivered.find, turn, finished_receipt(buckets, bucket), shard)
    contribution, conflicting = write_part(buckets, bucket, shard, packs, schema, find, new_id)
    rows: list[Any] = [schemaless_reader(BytesIO(record), schema, None) for record in conflicting]
    letters = letters_part(buckets, bucket.hour, contribution.id, list(map(letter_of, rows)), new_id)
    return replace(contribution, conflicts=letters)


def write_part(
    buckets: Buckets,
    bucket: Bucket,
    shard: Shard,
    packs: Iterable[bytes],
    schema: dict[str, Any],
    find: Callable[[bytes], Found],
    new_id: Callable[[], str],
) -> tuple[Contribution, list[bytes]]:
    """Writes the packs' records, without those that are delivered or come twice, and tells what became of each.

    find: takes packed marks, tells which are delivered. Given beside the contribution, and not counted in it, are the records
    whose ids were seen with another payload. Nothing is part of the bucket until it is committed. `new_id` gives a name that no
    other attempt uses.
    """
    seen: dict[bytes, bytes] = {}
    books: dict[str, dict[Exit, Tally]] = {}
    reasons: dict[str, dict[str, int]] = {}
    names: list[str] = []
    conflicting: list[bytes] = []
    elsewhere: set[bytes] = set()
    with PartWriter(schema) as writer:
        for data in packs:
            pack = Pack.from_bytes(data)
            names.append(pack.name)
            event_type, reason = read_label(pack.label)
            marks, found = split(pack.marks), find(pack.marks)
            ids = [mark[:HASH_BYTES] for mark in marks]
            sorted_out = _Sorted(fresh=[pack.marks])
            if not found.repeated.any() and len(set(ids)) == len(ids) and seen.keys().isdisjoint(ids):
                seen.update(zip(ids, marks, strict=True))
                writer.add(pack.marks, pack.records)
            else:
                sorted_out = _add_new(writer, bucket, pack, found, seen, is_event=not reason)
                conflicting += sorted_out.conflicting
                elsewhere.update(sorted_out.elsewhere)
            new, refused = (Tally.of_hashes(hashes(b"".join(each))) for each in (sorted_out.fresh, sorted_out.refused))
            way = Exit.DEAD_LETTER if reason else Exit.DELIVERED
            again = Tally.of_hashes(hashes(pack.marks)) - new - refused
            books = add_books(books, {event_type: {Exit.RECEIVED: pack.received - refused, way: new, Exit.DUPLICATE: again}})
            if reason and new.count:
                reasons = add_reasons(reasons, {event_type: {reason: new.count}})
        unique = new_id()
        part = writer.finish(buckets, bucket, shard, unique)
    files = write_elsewhere(buckets, shard, unique, elsewhere)
    return Contribution(unique, books, reasons, (part,) if part else (), tuple(names), elsewhere=files), conflicting


@dataclass
class _Sorted:
    """What became of a pack's records. fresh, refused: the marks of those that were written, and that conflict; conflicting:
    the latter's records; elsewhere: entries of those that another hour holds."""

    fresh: list[bytes] = field(default_factory=list)
    refused: list[bytes] = field(default_factory=list)
    conflicting: list[bytes] = field(default_factory=list)
    elsewhere: list[bytes] = field(default_factory=list)


def _add_new(
    writer: PartWriter, bucket: Bucket, pack: Pack, found: Found, seen: dict[bytes, bytes], *, is_event: bool
) -> _Sorted:
    """Writes those of the pack's records whose ids are not known yet."""
    result = _Sorted()
    own = hour_number(bucket.hour)
    for at, (mark, record) in enumerate(pack):
        digest = mark[:HASH_BYTES]
        first = seen.get(digest)
        if first is None and not found.repeated[at]:
            seen[digest] = mark
            result.fresh.append(mark)
            writer.add(mark, record)
        elif is_event and (found.conflicting[at] if first is None else not same_payload(first, mark)):
            result.refused.append(mark)
            result.conflicting.append(record)
        elif is_event and first is None and found.held[at] != own:
            result.elsewhere.append(entry(digest, published_for(record, bucket.hour), int(found.held[at])))
    return result
