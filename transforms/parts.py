"""Parts: one Avro file of a bucket's shard, and its index of ids."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from io import BytesIO
from tempfile import SpooledTemporaryFile
from typing import Any, BinaryIO

from fastavro.write import Writer

from schemas.buckets import Bucket
from schemas.fingerprints import HASH_BYTES, Tally
from schemas.outcomes import Exit
from schemas.receipts import Contribution, Part, Receipt
from schemas.shards import Shard
from transforms.buckets import Buckets, BucketsError
from transforms.packs import Pack, read_label

CODEC = "deflate"

BLOCK_BYTES = 1024 * 1024
"""Records are framed in Avro blocks of about this size: BigQuery reads blocks in parallel and takes them up to 16 MB."""

_IN_MEMORY = 16 * 1024 * 1024


@dataclass(frozen=True)
class _Block:
    """What fastavro's writer frames: encoded records, one behind the other."""

    num_records: int
    bytes_: BytesIO


class PartWriter:
    """Frames encoded records as an Avro file in a bucket's staging folder, where nobody reads it until a receipt lists it."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self._file: BinaryIO = SpooledTemporaryFile(max_size=_IN_MEMORY)  # type: ignore[assignment]  # noqa: SIM115 - closed by finish
        self._writer = Writer(self._file, schema, codec=CODEC)
        self._ids: list[bytes] = []
        self._block: list[bytes] = []
        self._block_size = 0

    def add(self, digest: bytes, record: bytes) -> None:
        """One record, by its id's hash."""
        self._ids.append(digest)
        self._block.append(record)
        self._block_size += len(record)
        if self._block_size >= BLOCK_BYTES:
            self._end_block()

    def _end_block(self) -> None:
        self._writer.write_block(_Block(len(self._block), BytesIO(b"".join(self._block))))
        self._block, self._block_size = [], 0

    def finish(self, buckets: Buckets, bucket: Bucket, shard: Shard, unique: str) -> Part | None:
        """Stores file and index under a name that ends in `unique`; None if there is no record. Raises BucketsError."""
        with self._file:
            if not self._ids:
                return None
            if self._block:
                self._end_block()
            self._writer.flush()
            index = b"".join(sorted(self._ids))
            name = f"part-{shard}-{unique}"
            stored = buckets.write(f"{bucket.staging}/{name}.avro", self._file)
            beside = buckets.write(f"{bucket.staging}/{name}.ids", index)
        return Part(f"{name}.avro", shard, stored.size, stored.crc32c, beside.crc32c, Tally.of_hashes(index))


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
    seen: set[bytes] = set()
    new: dict[str, list[bytes]] = {}
    again: dict[str, list[bytes]] = {}
    for data in packs:
        pack = Pack.from_bytes(data)
        fresh, repeated = new.setdefault(pack.label, []), again.setdefault(pack.label, [])
        for digest, record in pack:
            if digest in seen or digest in delivered:
                repeated.append(digest)
            else:
                seen.add(digest)
                fresh.append(digest)
                writer.add(digest, record)
    unique = new_id()
    part = writer.finish(buckets, bucket, shard, unique)
    books, reasons = _account(new, again)
    return Contribution(unique, books, reasons, (part,) if part else ())


def _account(
    new: dict[str, list[bytes]], again: dict[str, list[bytes]]
) -> tuple[dict[str, dict[Exit, Tally]], dict[str, dict[str, int]]]:
    books: dict[str, dict[Exit, Tally]] = {}
    reasons: dict[str, dict[str, int]] = {}
    for label, digests in new.items():
        event_type, reason = read_label(label)
        way = Exit.DEAD_LETTER if reason else Exit.DELIVERED
        line = books.setdefault(event_type, {})
        line[way] = line.get(way, Tally()) + Tally.of_hashes(b"".join(digests))
        line[Exit.DUPLICATE] = line.get(Exit.DUPLICATE, Tally()) + Tally.of_hashes(b"".join(again[label]))
        if reason and digests:
            numbers = reasons.setdefault(event_type, {})
            numbers[reason] = numbers.get(reason, 0) + len(digests)
    return books, reasons


def delivered_ids(buckets: Buckets, receipt: Receipt, shard: Shard) -> set[bytes]:
    """The hashes of the ids that the receipt's files hold and that could lie in the shard. Reads indexes, never payloads."""
    folder = receipt.bucket.folder
    return {digest for part in receipt.parts if part.shard.meets(shard) for digest in read_index(buckets, folder, part)}


def read_index(buckets: Buckets, folder: str, part: Part) -> list[bytes]:
    """The hashes in a part's index, sorted. BucketsError names an index that is not the one that was committed."""
    name = f"{folder}/{part.index_name}"
    data, stored = buckets.read(name)
    if stored.crc32c != part.index_crc32c:
        raise BucketsError(f"{name} is not the index that its receipt lists: the checksum differs. Restore it from a copy.")
    return [data[i : i + HASH_BYTES] for i in range(0, len(data), HASH_BYTES)]
