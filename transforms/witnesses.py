"""Witnesses: what files and tables really hold, counted from their rows, not from indexes or receipts."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import fastavro

from schemas.buckets import Bucket
from schemas.fingerprints import Tally, id_hash
from schemas.receipts import ReceiptError
from schemas.verdicts import Held
from transforms.buckets import Buckets, BucketsError
from transforms.commit import shown_receipt


@dataclass(frozen=True)
class Seen:
    """What a bucket's files hold. absent: the ids asked for that no row has; unreadable, foreign: as in Evidence."""

    held: Held
    absent: frozenset[str]
    unreadable: tuple[str, ...]
    foreign: tuple[str, ...]


@dataclass(frozen=True)
class Refusals:
    """The dead letters of an hour. ids: event type -> event ids, each as often as it comes; seen: by message id."""

    ids: dict[str, list[str]]
    seen: Seen


def see_events(buckets: Buckets, bucket: Bucket, asked: Collection[str]) -> Seen:
    """Counts an event type's bucket by event id."""
    unreadable: list[str] = []
    absent = set(asked)
    hashes = []
    for row in _rows(buckets, bucket, ["event_id"], unreadable):
        hashes.append(id_hash(row["event_id"]))
        absent.discard(row["event_id"])
    return Seen(_held(hashes), frozenset(absent), tuple(unreadable), _foreign(buckets, bucket, unreadable))


def see_dead_letters(buckets: Buckets, bucket: Bucket) -> Refusals:
    """Counts an hour's dead letters by message id, and gathers their event ids by type."""
    unreadable: list[str] = []
    ids: dict[str, list[str]] = {}
    hashes = []
    for row in _rows(buckets, bucket, ["message_id", "event_id", "event_type"], unreadable):
        hashes.append(id_hash(row["message_id"]))
        ids.setdefault(row["event_type"] or "", []).append(row["event_id"])
    seen = Seen(_held(hashes), frozenset(), tuple(unreadable), _foreign(buckets, bucket, unreadable))
    return Refusals(ids, seen)


def _held(hashes: list[bytes]) -> Held:
    return Held(len(hashes), Tally.of_hashes(b"".join(set(hashes))))


def _rows(buckets: Buckets, bucket: Bucket, columns: list[str], unreadable: list[str]) -> Iterator[dict[str, str]]:
    """Those columns of each row in the files that the bucket's receipt lists. What can't be read is named; the rest goes on."""
    try:
        parts = shown_receipt(buckets, bucket).parts
    except (BucketsError, ReceiptError) as error:
        unreadable.append(str(error))
        return
    for part in parts:
        name = f"{bucket.folder}/{part.name}"
        try:
            with buckets.open(name) as file:
                row: Any
                for row in fastavro.reader(file):
                    yield {column: row[column] for column in columns}
        except (BucketsError, OSError, ValueError, EOFError, KeyError, TypeError, LookupError) as error:
            unreadable.append(f"{name} can't be read: {error}")


def _foreign(buckets: Buckets, bucket: Bucket, unreadable: list[str]) -> tuple[str, ...]:
    """What lies in the bucket's folder and is neither listed nor part of a receipt."""
    if unreadable:
        return ()
    listed = {
        f"{bucket.folder}/{name}" for part in shown_receipt(buckets, bucket).parts for name in (part.name, part.index_name)
    }
    own = {bucket.receipt_name, bucket.success_name}
    names = buckets.list(f"{bucket.folder}/")
    return tuple(name for name in names if name not in listed | own and not name.startswith(f"{bucket.folder}/_receipts/"))
