"""Data files: one Avro file of a bucket's shard, and its index of ids."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from secrets import token_bytes
from tempfile import SpooledTemporaryFile
from typing import Any, BinaryIO, Self

from fastavro.write import Writer
from isal import isal_zlib

from schemas.buckets import STAGING, Bucket
from schemas.codec.avro_binary import long
from schemas.fingerprints import Tally
from schemas.shards import Shard
from storage.buckets.committable import DataFile
from storage.buckets.id_index import ENTRY_BYTES, hashes, ordered
from storage.objects.base import Damaged, ObjectStore

CODEC = "deflate"

COMPRESSION_LEVEL = 1
"""Of isal, which is deflate six times as fast as zlib's fastest level, and smaller: 531 MB/s and 38.5 % of the bytes, beside
89 MB/s and 40.4 %, for the benchmark's events."""

BLOCK_BYTES = 1024 * 1024
"""Records are framed in Avro blocks of about this size: BigQuery reads blocks in parallel and takes them up to 16 MB."""

_IN_MEMORY = 16 * 1024 * 1024


class DataFileWriter:
    """Frames encoded records as an Avro file in the staging folder, where nobody reads it until a manifest lists it.

    To be used in a `with` block.
    """

    def __init__(self, schema: dict[str, Any]) -> None:
        self._file: BinaryIO = SpooledTemporaryFile(max_size=_IN_MEMORY)  # type: ignore[assignment]  # noqa: SIM115 - closed at the end of the block
        self._sync = token_bytes(16)
        Writer(self._file, schema, codec=CODEC, sync_marker=self._sync).flush()
        self._entries: list[bytes] = []
        self._block: list[bytes] = []
        self._block_records = 0
        self._block_size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, entries: bytes, records: bytes) -> None:
        """One record or more, one behind the other, and their index entries."""
        self._entries.append(entries)
        self._block.append(records)
        self._block_records += len(entries) // ENTRY_BYTES
        self._block_size += len(records)
        if self._block_size >= BLOCK_BYTES:
            self._end_block()

    def _end_block(self) -> None:
        # Avro's codec is deflate without zlib's header: negative bits say so.
        deflate = isal_zlib.compressobj(COMPRESSION_LEVEL, isal_zlib.DEFLATED, -isal_zlib.MAX_WBITS)
        data = b"".join((*map(deflate.compress, self._block), deflate.flush()))
        self._file.write(b"".join((long(self._block_records), long(len(data)), data, self._sync)))
        self._block, self._block_records, self._block_size = [], 0, 0

    def finish(self, store: ObjectStore, bucket: Bucket, shard: Shard, unique: str) -> DataFile | None:
        """Stores file and index under a name that ends in `unique`; None if there is no record. Raises StoreError."""
        if not self._entries:
            return None
        if self._block:
            self._end_block()
        index = ordered(b"".join(self._entries))
        name = f"part-{shard}-{unique}"
        with ThreadPoolExecutor(1) as beside:  # a store takes its time for each, and has time for both
            indexed = beside.submit(store.write, f"{STAGING}/{name}.ids", index)
            stored = store.write(f"{STAGING}/{name}.avro", self._file)
        return DataFile(
            f"{name}.avro", shard, stored.size, stored.crc32c, indexed.result().crc32c, Tally.of_hashes(hashes(index))
        )


def read_entries(store: ObjectStore, folder: str, data_file: DataFile) -> bytes:
    """The entries in a data file's index, packed and sorted. Damaged names an index that is not the one that was committed."""
    name = f"{folder}/{data_file.index_name}"
    data, stored = store.read(name)
    if stored.crc32c != data_file.index_crc32c:
        raise Damaged(f"{name} is not the index that its manifest lists: the checksum differs. Restore it from a copy.")
    return data
