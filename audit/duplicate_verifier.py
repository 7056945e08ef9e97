"""DuplicateVerifier: whether the hours that are said to hold an id do hold it.

A bucket names the ids that it dropped because another hour holds them. An audit believes none of it: it looks the id up in that
hour's indexes, and has the data file measured. That its rows are those of its index is seen when that hour itself is judged.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from schemas.buckets import Bucket
from storage.buckets.committable import DataFile
from storage.buckets.duplicate_refs import comparable, read_elsewhere
from storage.buckets.id_index import hashes
from storage.buckets.manifest import Manifest, ManifestError
from storage.buckets.manifest_store import shown_receipt
from storage.buckets.part_files import read_entries
from storage.objects.base import ObjectStore, StoreError
from storage.objects.streams import measure

KEPT_BYTES = 256 * 1024 * 1024
"""Of indexes, 16 for each id, that are kept for the next bucket to be asked about. One hour's are read whole all the same."""

_Indexes = list[tuple[DataFile, NDArray[np.bytes_]]]


@dataclass(frozen=True)
class Verification:
    """ids: the hashes of what other hours really hold, by the hour that it was published for; unheld: how many entries name an
    hour that does not hold the id; unreadable: as in Evidence."""

    ids: dict[datetime, set[bytes]] = field(default_factory=dict)
    unheld: int = 0
    unreadable: tuple[str, ...] = ()


class DuplicateVerifier:
    """What buckets hold, by their indexes. Each is read once, as long as KEPT_BYTES last."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._kept: OrderedDict[Bucket, _Indexes] = OrderedDict()
        self._measured: set[str] = set()

    def verify(self, manifest: Manifest) -> Verification:
        """Looks after each id that the manifest's bucket says another hour holds."""
        ids: dict[datetime, set[bytes]] = {}
        unheld, unreadable = 0, []
        for file in manifest.elsewhere:
            try:
                asked = read_elsewhere(self._store, manifest.bucket, file)
            except StoreError as error:
                unreadable.append(str(error))
                continue
            for (hour, held), digests in asked.items():
                try:
                    there = self._held(Bucket(manifest.bucket.stream, held), digests)
                except (StoreError, ManifestError) as error:
                    unreadable.append(str(error))
                    continue
                unheld += len(there) - int(there.sum())
                found = digests[there].tobytes()
                ids.setdefault(hour, set()).update(found[at : at + 16] for at in range(0, len(found), 16))
        return Verification(ids, unheld, tuple(unreadable))

    def _held(self, bucket: Bucket, asked: NDArray[np.bytes_]) -> NDArray[np.bool_]:
        held = np.zeros(len(asked), bool)
        for data_file, index in self._indexes(bucket):
            hits = index[np.searchsorted(index, asked) % len(index)] == asked
            if hits.any():
                self._measure(bucket, data_file)
            held |= hits
        return held

    def _indexes(self, bucket: Bucket) -> _Indexes:
        if bucket not in self._kept:
            data_files = shown_receipt(self._store, bucket).data_files
            self._kept[bucket] = [
                (data_file, comparable(hashes(read_entries(self._store, bucket.folder, data_file))))
                for data_file in data_files
                if data_file.ids.count
            ]
        self._kept.move_to_end(bucket)
        indexes = self._kept[bucket]
        while len(self._kept) > 1 and sum(index.nbytes for one in self._kept.values() for _, index in one) > KEPT_BYTES:
            self._kept.popitem(last=False)
        return indexes

    def _measure(self, bucket: Bucket, data_file: DataFile) -> None:
        name = f"{bucket.folder}/{data_file.name}"
        if name in self._measured:
            return
        with self._store.open(name) as source:
            if measure(source) != (data_file.size, data_file.crc32c):
                raise StoreError(f"{name} is not the file that was committed: its size or checksum differs from the manifest")
        self._measured.add(name)
