"""Parts: one Avro file of a bucket's shard, and its index of ids."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from secrets import token_bytes
from tempfile import SpooledTemporaryFile
from typing import Any, BinaryIO

from fastavro.write import Writer
from isal import isal_zlib

from schemas.buckets import STAGING, Bucket
from schemas.encoding import long
from schemas.fingerprints import HASH_BYTES, Tally
from schemas.marks import MARK_BYTES, hashes, ordered, split
from schemas.outcomes import Exit
from schemas.receipts import Contribution, Part, Receipt, add_reasons
from schemas.reports import add_books
from schemas.shards import Shard
from transforms.buckets import Buckets, Damaged
from transforms.packs import Pack, read_label

CODEC = "deflate"

COMPRESSION_LEVEL = 1
"""Of isal, which is deflate six times as fast as zlib's fastest level, and smaller: 531 MB/s and 38.5 % of the bytes, beside
89 MB/s and 40.4 %, for the benchmark's events."""

BLOCK_BYTES = 1024 * 1024
"""Records are framed in Avro blocks of about this size: BigQuery reads blocks in parallel and takes them up to 16 MB."""

_IN_MEMORY = 16 * 1024 * 1024


class PartWriter:
    """Frames encoded records as an Avro file in the staging folder, where nobody reads it until a receipt lists it."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self._file: BinaryIO = SpooledTemporaryFile(max_size=_IN_MEMORY)  # type: ignore[assignment]  # noqa: SIM115 - closed by finish
        self._sync = token_bytes(16)
        Writer(self._file, schema, codec=CODEC, sync_marker=self._sync).flush()
        self._marks: list[bytes] = []
        self._block: list[bytes] = []
        self._block_records = 0
        self._block_size = 0

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
        with self._file:
            if not self._marks:
                return None
            if self._block:
                self._end_block()
            index = ordered(b"".join(self._marks))
            name = f"part-{shard}-{unique}"
            stored = buckets.write(f"{STAGING}/{name}.avro", self._file)
            beside = buckets.write(f"{STAGING}/{name}.ids", index)
        return Part(f"{name}.avro", shard, stored.size, stored.crc32c, beside.crc32c, Tally.of_hashes(hashes(index)))


def write_part(
    buckets: Buckets,
    bucket: Bucket,
    shard: Shard,
    packs: Iterable[bytes],
    schema: dict[str, Any],
    delivered: Collection[bytes],
    new_id: Callable[[], str],
) -> Contribution:
    """Writes the packs' records, without those whose id is in `delivered` or comes twice, and tells what became of each.

    The result is not part of the bucket until it is committed. `new_id` gives a name that no other attempt uses.
    """
    writer = PartWriter(schema)
    seen = set(delivered)
    books: dict[str, dict[Exit, Tally]] = {}
    reasons: dict[str, dict[str, int]] = {}
    names = []
    for data in packs:
        pack = Pack.from_bytes(data)
        names.append(pack.name)
        event_type, reason = read_label(pack.label)
        digests = hashes(pack.marks)
        ids = [digests[start : start + HASH_BYTES] for start in range(0, len(digests), HASH_BYTES)]
        if len(set(ids)) == len(ids) and seen.isdisjoint(ids):
            seen.update(ids)
            writer.add(pack.marks, pack.records)
            fresh = pack.marks
        else:
            fresh = _add_new(writer, pack, seen)
        new, way = Tally.of_hashes(hashes(fresh)), Exit.DEAD_LETTER if reason else Exit.DELIVERED
        again = Tally.of_hashes(digests) - new
        books = add_books(books, {event_type: {Exit.RECEIVED: pack.received, way: new, Exit.DUPLICATE: again}})
        if reason and new.count:
            reasons = add_reasons(reasons, {event_type: {reason: new.count}})
    unique = new_id()
    part = writer.finish(buckets, bucket, shard, unique)
    return Contribution(unique, books, reasons, (part,) if part else (), tuple(names))


def _add_new(writer: PartWriter, pack: Pack, seen: set[bytes]) -> bytes:
    """Writes those of the pack's records whose ids are not seen yet. Returns their marks."""
    fresh = []
    for mark, record in pack:
        digest = mark[:HASH_BYTES]
        if digest not in seen:
            seen.add(digest)
            fresh.append(mark)
            writer.add(mark, record)
    return b"".join(fresh)


def delivered_ids(buckets: Buckets, receipt: Receipt, shard: Shard) -> set[bytes]:
    """The hashes of the ids that the receipt's files hold and that could lie in the shard. Reads indexes, never payloads."""
    folder = receipt.bucket.folder
    return {digest for part in receipt.parts if part.shard.meets(shard) for digest in read_index(buckets, folder, part)}


def read_index(buckets: Buckets, folder: str, part: Part) -> list[bytes]:
    """The hashes in a part's index, sorted. Damaged names an index that is not the one that was committed."""
    return [mark[:HASH_BYTES] for mark in read_marks(buckets, folder, part)]


def read_marks(buckets: Buckets, folder: str, part: Part) -> list[bytes]:
    """The marks in a part's index, sorted. Damaged names an index that is not the one that was committed."""
    name = f"{folder}/{part.index_name}"
    data, stored = buckets.read(name)
    if stored.crc32c != part.index_crc32c:
        raise Damaged(f"{name} is not the index that its receipt lists: the checksum differs. Restore it from a copy.")
    return split(data)
