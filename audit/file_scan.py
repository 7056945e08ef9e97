"""Witnesses: what files really hold, counted from their rows, and whether the files are those that manifests list.

Each file is read once. A file or index of other bytes than its manifest lists can't be trusted: its rows are counted all the
same, to tell what is wrong, and its hour is UNKNOWN.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, BinaryIO

import fastavro
import google_crc32c

from audit.duplicate_verifier import DuplicateVerifier
from schemas.buckets import Bucket, hour_of
from schemas.envelope import RECEIVED_AT, parse_time
from schemas.fingerprints import Tally, id_hash
from storage.buckets.committable import DataFile
from storage.buckets.id_index import ENTRY_BYTES, hashes
from storage.buckets.manifest import Manifest
from storage.objects.base import ObjectStore, StoreError
from storage.tables.base import RowCounts

IdsByHour = dict[datetime, set[bytes]]
"""Hashes of event ids by the hour that they were published for: the bucket's, or an earlier one that they came too late for."""


@dataclass(frozen=True)
class Seen:
    """What a bucket's files hold. ids: what arrived, by event id, another hour's files holding it or its own; unheld,
    unreadable, unexpected: as in Evidence."""

    row_counts: RowCounts = field(default_factory=RowCounts)
    ids: IdsByHour = field(default_factory=dict)
    unheld: int = 0
    unreadable: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()


@dataclass(frozen=True)
class DeadLetterScan:
    """The dead letters of an hour. seen: by message id; events: event type -> event ids, each as often as it comes;
    ids: event type -> what arrived."""

    seen: Seen = field(default_factory=Seen)
    events: Mapping[str, Tally] = field(default_factory=dict)
    ids: Mapping[str, IdsByHour] = field(default_factory=dict)


def see_events(store: ObjectStore, manifest: Manifest, verifier: DuplicateVerifier) -> Seen:
    """Counts an event type's bucket by event id, and looks after what it dropped since another hour holds it."""
    ids: IdsByHour = {}
    rows, own = 0, manifest.bucket.hour

    def look(row: Mapping[str, Any]) -> bytes:
        digest, skewed_from = id_hash(row["event_id"]), row["skewed_from"]
        ids.setdefault(hour_of(skewed_from) if skewed_from else own, set()).add(digest)
        nonlocal rows
        rows += 1
        return digest

    unreadable, unexpected = _read(store, manifest, look)
    row_counts = RowCounts(rows, _tally(set().union(*ids.values())))
    verification = verifier.verify(manifest)
    for hour, found in verification.ids.items():
        ids.setdefault(hour, set()).update(found)
    return Seen(row_counts, ids, verification.unheld, unreadable + verification.unreadable, unexpected)


def see_dead_letters(store: ObjectStore, manifest: Manifest) -> DeadLetterScan:
    """Counts an hour's dead letters by message id, and gathers their event ids by type."""
    messages: list[bytes] = []
    events: dict[str, list[bytes]] = {}
    ids: dict[str, IdsByHour] = {}

    def look(row: Mapping[str, Any]) -> bytes:
        kind, event, message = row["event_type"] or "", id_hash(row["event_id"]), id_hash(row["message_id"])
        ids.setdefault(kind, {}).setdefault(_claimed_hour(row, manifest.bucket.hour), set()).add(event)
        events.setdefault(kind, []).append(event)
        messages.append(message)
        return message

    unreadable, unexpected = _read(store, manifest, look)
    seen = Seen(RowCounts(len(messages), _tally(set(messages))), unreadable=unreadable, unexpected=unexpected)
    return DeadLetterScan(seen, {kind: Tally.of_hashes(b"".join(all_)) for kind, all_ in events.items()}, ids)


def _claimed_hour(dead_letter: Mapping[str, Any], own: datetime) -> datetime:
    """The hour of its stamp where that lies before the hour that it was put into; a later stamp decides nothing."""
    try:
        claimed = hour_of(parse_time(dead_letter["attributes"][RECEIVED_AT]))
    except (KeyError, ValueError, OverflowError):
        return own
    return min(claimed, own)


def _tally(hashes: set[bytes]) -> Tally:
    return Tally.of_hashes(b"".join(hashes))


class _Measured:
    """A stream whose bytes are measured as they are read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = 0
        self.crc32c = 0

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.size += len(data)
        self.crc32c = google_crc32c.extend(self.crc32c, data)
        return data


def _read(
    store: ObjectStore, manifest: Manifest, look: Callable[[Mapping[str, Any]], bytes]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Gives each row in the files that the manifest lists to `look`, which gives the hash of its id, and returns what can't be
    read or trusted, and what is unexpected. What can't be read does not keep the rest from being read."""
    problems: list[str] = []
    for data_file in manifest.data_files:
        name = f"{manifest.bucket.folder}/{data_file.name}"
        try:
            with store.open(name) as source:
                file: Any = _Measured(source)
                rows: Any = fastavro.reader(file)
                digests = [look(row) for row in rows]
                file.read()
        except (StoreError, OSError) as error:
            problems.append(f"{name} can't be read: {error}")
            continue
        except Exception as error:  # noqa: BLE001 - what a damaged file makes the reader raise has no end
            problems.append(f"{name} can't be read: it is damaged ({type(error).__name__})")
            continue
        if (file.size, file.crc32c) != (data_file.size, data_file.crc32c):
            problems.append(f"{name} is not the file that was committed: its size or checksum differs from the manifest")
        problems += _index_problems(store, manifest.bucket, data_file, digests)
    unexpected: tuple[str, ...] = ()
    try:
        unexpected = _unexpected(store, manifest)
    except StoreError as error:
        problems.append(str(error))
    return tuple(problems), unexpected


def _index_problems(store: ObjectStore, bucket: Bucket, data_file: DataFile, digests: list[bytes]) -> Iterator[str]:
    name = f"{bucket.folder}/{data_file.index_name}"
    try:
        data, stored = store.read(name)
    except StoreError as error:
        yield f"{name} can't be read: {error}"
        return
    if stored.crc32c != data_file.index_crc32c:
        yield f"{name} is not the index that was committed: its checksum differs from the manifest"
    if len(data) % ENTRY_BYTES or hashes(data) != b"".join(sorted(digests)):
        yield f"{name} does not contain the ids of {data_file.name}"


def _unexpected(store: ObjectStore, manifest: Manifest) -> tuple[str, ...]:
    """What lies in the bucket's folder and is neither listed nor part of a manifest."""
    bucket = manifest.bucket
    listed = {name for data_file in manifest.data_files for name in (data_file.name, data_file.index_name)} | {
        file.name for file in manifest.elsewhere
    }
    own = {f"{bucket.folder}/{name}" for name in listed} | {bucket.manifest_name, bucket.success_name}
    names = store.list(f"{bucket.folder}/")
    return tuple(name for name in names if name not in own and not name.startswith(f"{bucket.folder}/_receipts/"))
