"""Skewed events: they came too late for their hour, and lie in the bucket of a later one, their row's `skewed_from` set.

Their publishers count them in the hour that they were stamped with, so there they count as arrived.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from audit.duplicate_verifier import DuplicateVerifier
from audit.file_scan import DeadLetterScan, IdsByHour, Seen, see_dead_letters, see_events
from schemas.buckets import DEAD_LETTERS, HOUR, LAST_HOUR, Bucket
from storage.buckets.listing import buckets_of
from storage.buckets.manifest import ManifestError
from storage.buckets.manifest_store import shown_receipt
from storage.objects.base import ObjectStore, StoreError


class SkewedIds:
    """Gathers skewed events by type and hour from what witnesses see. Hours are to be seen from the newest on."""

    def __init__(self, store: ObjectStore, verifier: DuplicateVerifier) -> None:
        self._store, self._verifier = store, verifier
        self._seen: set[Bucket] = set()
        self._ids: dict[tuple[str, datetime], set[bytes]] = {}

    def of(self, event_type: str, hour: datetime) -> set[bytes]:
        """The hashes of ids that came too late for the hour, and were seen in later ones."""
        return self._ids.get((event_type, hour), set())

    def add_events(self, bucket: Bucket, seen: Seen) -> None:
        self._add(bucket, seen, {bucket.stream: seen.ids})

    def add_dead_letters(self, bucket: Bucket, dead_letter_scan: DeadLetterScan) -> None:
        self._add(bucket, dead_letter_scan.seen, dead_letter_scan.ids)

    def look_after(self, streams: set[str], hour: datetime) -> tuple[str, ...]:
        """Has all later buckets of the streams seen that were not seen whole yet, and returns what could not be read."""
        unreadable: list[str] = []
        try:
            later = [one for stream in streams for one in buckets_of(self._store, stream, hour + HOUR, LAST_HOUR)]
        except StoreError as error:
            return (str(error),)
        for bucket in later:
            if bucket in self._seen:
                continue
            try:
                manifest = shown_receipt(self._store, bucket)
            except (StoreError, ManifestError) as error:
                unreadable.append(str(error))
                continue
            if bucket.stream == DEAD_LETTERS:
                dead_letter_scan = see_dead_letters(self._store, manifest)
                self.add_dead_letters(bucket, dead_letter_scan)
                unreadable += dead_letter_scan.seen.unreadable
            else:
                seen = see_events(self._store, manifest, self._verifier)
                self.add_events(bucket, seen)
                unreadable += seen.unreadable
        return tuple(unreadable)

    def _add(self, bucket: Bucket, seen: Seen, ids: Mapping[str, IdsByHour]) -> None:
        if seen.unreadable:
            return  # what can't be trusted here proves nothing for another hour
        self._seen.add(bucket)
        for event_type, hours in ids.items():
            for hour, hashes in hours.items():
                if hour != bucket.hour:
                    self._ids.setdefault((event_type, hour), set()).update(hashes)
