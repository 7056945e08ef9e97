"""Read dead letters as messages that can be published again, and find those that need no replay."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import fastavro

from schemas.buckets import DEAD_LETTERS, EVENT_TYPE_NAME, HOUR, Bucket, hour_of
from schemas.envelope import DEDUP_KEY, EVENT_ID, EVENT_TYPE, RECEIVED_AT, REPLAY_OF, format_time, parse_time, stamp
from schemas.fingerprints import HASH_BYTES, id_hash
from storage.buckets.committable import DataFile
from storage.buckets.id_index import split
from storage.buckets.listing import buckets_of
from storage.buckets.manifest_store import finished_receipt
from storage.buckets.part_files import read_entries
from storage.objects.base import Damaged, ObjectStore
from storage.objects.streams import measure


@dataclass(frozen=True)
class DeadLetter:
    """A dead letter, as the message that replays it."""

    message_id: str
    """Id of the message that was refused first."""
    data: bytes
    attributes: Mapping[str, str]
    """Attributes of the replay."""
    received_at: datetime
    """Decides the hour of the dead letter."""

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> DeadLetter:
        """Return the dead letter of a row of `schemas.row_schemas.dead_letter_schema`.

        The replay has the attributes of the refused message, and its event id, so that the event can't be delivered twice. It
        goes to the hour of the dead letter: `received_at` is added if the message had none that counts, because it was missing,
        unreadable or in the future. Attributes that begin with "goog" are left out: Pub/Sub reserves them for itself.
        """
        attributes = {key: value for key, value in row["attributes"].items() if not key.startswith("goog")}
        try:
            counts = parse_time(attributes[RECEIVED_AT]) <= row["received_at"]
        except (KeyError, ValueError, OverflowError):
            counts = False
        if not counts:
            attributes[RECEIVED_AT] = format_time(row["received_at"])
        attributes[EVENT_ID] = row["event_id"]
        attributes[REPLAY_OF] = row["message_id"]
        # Dataflow would drop the replay as a copy of the first message.
        attributes.pop(DEDUP_KEY, None)
        return cls(row["message_id"], row["data"], attributes, row["received_at"])

    @property
    def event_type(self) -> str:
        """The event type that the message claims, or an empty text."""
        return self.attributes.get(EVENT_TYPE, "")

    @property
    def hashed(self) -> bytes:
        """Hash of the event id."""
        return id_hash(self.attributes[EVENT_ID])

    @property
    def own_hash(self) -> bytes:
        """Hash of the message id, which stays the same if the replay is refused."""
        return id_hash(self.message_id)

    def is_late(self, now: datetime, allowed_lateness: timedelta) -> bool:
        """Whether the event is too late for its hour if it is published now, and so goes to the current hour."""
        return stamp(self.attributes, now, allowed_lateness).skewed_from is not None


def read_dead_letters(store: ObjectStore, bucket: Bucket, data_file: DataFile, reasons: frozenset[str]) -> Iterator[DeadLetter]:
    """Yield the dead letters of some reasons in one data file.

    Raises:
        Damaged: The file is not the committed one. Raised before the first dead letter.
    """
    name = f"{bucket.folder}/{data_file.name}"
    with store.open(name) as file:
        if measure(file) != (data_file.size, data_file.crc32c):
            raise Damaged(
                f"{name} is not the file that its manifest lists: size or checksum differ. What to do: restore it from a copy"
            )
        file.seek(0)
        rows: Any = fastavro.reader(file)
        for row in rows:
            if row["reason"] in reasons:
                yield DeadLetter.of(row)


class Resolved(NamedTuple):
    """Dead letters that need no replay."""

    delivered: set[tuple[str, bytes]]
    """Event types and hashes of event ids that are delivered, by an earlier replay or by a good message."""
    refused: Mapping[bytes, datetime]
    """Late dead letters whose replay was refused: hash of the message id to the newest hour with a copy."""


def resolved_since(
    store: ObjectStore, dead_letters: Iterable[DeadLetter], now: datetime, allowed_lateness: timedelta
) -> Resolved:
    """Look up the dead letters of one bucket in the id indexes. No data file is read.

    A replay goes to the hour of its dead letter or, if it was late, to any hour since.
    """
    events: dict[tuple[str, datetime, datetime], set[bytes]] = {}
    late: dict[datetime, set[bytes]] = {}
    for dead_letter in dead_letters:
        first = hour_of(dead_letter.received_at)
        is_late = dead_letter.is_late(now, allowed_lateness)
        if is_late:
            late.setdefault(first + HOUR, set()).add(dead_letter.own_hash)
        # A client may claim any event type. One that is no valid name has no buckets.
        if dead_letter.event_type != DEAD_LETTERS and EVENT_TYPE_NAME.fullmatch(dead_letter.event_type):
            last = hour_of(now) if is_late else first
            events.setdefault((dead_letter.event_type, first, last), set()).add(dead_letter.hashed)
    delivered = {
        (event_type, digest)
        for (event_type, first, last), wanted in events.items()
        for _, digests in _present(store, event_type, first, last, wanted)
        for digest in digests
    }
    refused = {
        digest: hour
        for first, wanted in late.items()
        for hour, digests in _present(store, DEAD_LETTERS, first, hour_of(now), wanted)
        for digest in digests
    }
    return Resolved(delivered, refused)


def _present(
    store: ObjectStore, stream: str, first: datetime, last: datetime, wanted: set[bytes]
) -> Iterator[tuple[datetime, set[bytes]]]:
    """Yield the hours from `first` to `last`, in order, with those of the wanted hashes that their id indexes contain."""
    for bucket in buckets_of(store, stream, first, last):
        for data_file in finished_receipt(store, bucket).data_files:
            entries = split(read_entries(store, bucket.folder, data_file))
            yield bucket.hour, wanted.intersection(entry[:HASH_BYTES] for entry in entries)
