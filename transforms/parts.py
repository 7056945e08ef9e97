"""Parts: one Avro file of a bucket's shard, and its index of ids."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from secrets import token_bytes
from tempfile import SpooledTemporaryFile
from typing import Any, BinaryIO, Self

from fastavro.write import Writer
from isal import isal_zlib

from schemas.buckets import STAGING, Bucket
from schemas.contributions import Contribution, Part, add_reasons
from schemas.elsewhere import entry, hour_number
from schemas.encoding import long
from schemas.fingerprints import HASH_BYTES, Tally
from schemas.marks import MARK_BYTES, Found, hashes, ordered, same_payload, split
from schemas.outcomes import Exit
from schemas.reports import add_books
from schemas.shards import Shard
from transforms.buckets import Buckets, Damaged
from transforms.elsewhere import published_for, write_elsewhere
from transforms.packs import Pack, read_label

CODEC = "deflate"

COMPRESSION_LEVEL = 1
"""Of isal, which is deflate six times as fast as zlib's fastest level, and smaller: 531 MB/s and 38.5 % of the bytes, beside
89 MB/s and 40.4 %, for the benchmark's events."""

BLOCK_BYTES = 1024 * 1024
"""Records are framed in Avro blocks of about this size: BigQuery reads blocks in parallel and takes them up to 16 MB."""

_IN_MEMORY = 16 * 1024 * 1024


class PartWriter:
    """Frames encoded records as an Avro file in the staging folder, where nobody reads it until a receipt lists it.

    To be used in a `with` block.
    """

    def __init__(self, schema: dict[str, Any]) -> None:
        self._file: BinaryIO = SpooledTemporaryFile(max_size=_IN_MEMORY)  # type: ignore[assignment]  # noqa: SIM115 - closed at the end of the block
        self._sync = token_bytes(16)
        Writer(self._file, schema, codec=CODEC, sync_marker=self._sync).flush()
        self._marks: list[bytes] = []
        self._block: list[bytes] = []
        self._block_records = 0
        self._block_size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, marks: bytes, records: bytes) -> None:
        """One record or more, one behind the other, and their marks."""
        self._marks.append(marks)
        self._block.append(records)
        self._block_records += len(marks) // MARK_BYTES
        self._block_size += len(records)
        if self._block_size >= BLOCK_BYTES:
            self._end_block()

    def _end_block(self) -> None:
        # Avro's codec is deflate without zlib's header: negative bits say so.
        deflate = isal_zlib.compressobj(COMPRESSION_LEVEL, isal_zlib.DEFLATED, -isal_zlib.MAX_WBITS)
        data = b"".join((*map(deflate.compress, self._block), deflate.flush()))
        self._file.write(b"".join((long(self._block_records), long(len(data)), data, self._sync)))
        self._block, self._block_records, self._block_size = [], 0, 0

    def finish(self, buckets: Buckets, bucket: Bucket, shard: Shard, unique: str) -> Part | None:
        """Stores file and index under a name that ends in `unique`; None if there is no record. Raises BucketsError."""
        if not self._marks:
            return None
        if self._block:
            self._end_block()
        index = ordered(b"".join(self._marks))
        name = f"part-{shard}-{unique}"
        with ThreadPoolExecutor(1) as beside:  # a store takes its time for each, and has time for both
            indexed = beside.submit(buckets.write, f"{STAGING}/{name}.ids", index)
            stored = buckets.write(f"{STAGING}/{name}.avro", self._file)
        return Part(f"{name}.avro", shard, stored.size, stored.crc32c, indexed.result().crc32c, Tally.of_hashes(hashes(index)))


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


def read_marks(buckets: Buckets, folder: str, part: Part) -> bytes:
    """The marks in a part's index, packed and sorted. Damaged names an index that is not the one that was committed."""
    name = f"{folder}/{part.index_name}"
    data, stored = buckets.read(name)
    if stored.crc32c != part.index_crc32c:
        raise Damaged(f"{name} is not the index that its receipt lists: the checksum differs. Restore it from a copy.")
    return data
