"""Skewed events: they came too late for their hour, and lie in the bucket of a later one, their row's `skewed_from` set.

Their publishers count them in the hour that they were stamped with, so there they count as arrived.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from audit.duplicate_verifier import Holders
from audit.file_scan import IdsByHour, Refusals, Seen, see_dead_letters, see_events
from schemas.buckets import DEAD_LETTERS, HOUR, LAST_HOUR, Bucket
from storage.buckets.listing import buckets_of
from storage.buckets.manifest import ReceiptError
from storage.buckets.manifest_store import shown_receipt
from storage.objects.base import Buckets, BucketsError


class SkewedIds:
    """Gathers skewed events by type and hour from what witnesses see. Hours are to be seen from the newest on."""

    def __init__(self, buckets: Buckets, holders: Holders) -> None:
        self._buckets, self._holders = buckets, holders
        self._seen: set[Bucket] = set()
        self._ids: dict[tuple[str, datetime], set[bytes]] = {}

    def of(self, event_type: str, hour: datetime) -> set[bytes]:
        """The hashes of ids that came too late for the hour, and were seen in later ones."""
        return self._ids.get((event_type, hour), set())

    def add_events(self, bucket: Bucket, seen: Seen) -> None:
        self._add(bucket, seen, {bucket.stream: seen.ids})

    def add_dead_letters(self, bucket: Bucket, refusals: Refusals) -> None:
        self._add(bucket, refusals.seen, refusals.ids)

    def look_after(self, streams: set[str], hour: datetime) -> tuple[str, ...]:
        """Has all later buckets of the streams seen that were not seen whole yet, and returns what could not be read."""
        unreadable: list[str] = []
        try:
            later = [one for stream in streams for one in buckets_of(self._buckets, stream, hour + HOUR, LAST_HOUR)]
        except BucketsError as error:
            return (str(error),)
        for bucket in later:
            if bucket in self._seen:
                continue
            try:
                receipt = shown_receipt(self._buckets, bucket)
            except (BucketsError, ReceiptError) as error:
                unreadable.append(str(error))
                continue
            if bucket.stream == DEAD_LETTERS:
                refusals = see_dead_letters(self._buckets, receipt)
                self.add_dead_letters(bucket, refusals)
                unreadable += refusals.seen.unreadable
            else:
                seen = see_events(self._buckets, receipt, self._holders)
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
