"""Judging: gathers the evidence for hours, and has each event type in them judged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from audit.duplicate_verifier import DuplicateVerifier
from audit.file_scan import DeadLetterScan, Seen, see_dead_letters, see_events
from audit.report_log import heard
from audit.skewed import SkewedIds
from audit.verdicts import Evidence, Verdict, judge
from schemas.audit_reports import DeliveredReport, PublishedReport
from schemas.buckets import DEAD_LETTERS, FIRST_HOUR, Bucket
from schemas.errors import plural
from schemas.fingerprints import Tally
from schemas.outcomes import Outcome
from schemas.tables import Table, dead_letters_table
from storage.buckets.listing import buckets_of, event_types_of
from storage.buckets.manifest import Manifest, ManifestError
from storage.buckets.manifest_store import shown_receipt
from storage.objects.base import ObjectStore, StoreError
from storage.tables.base import RowCounts, TableStore, TableStoreError


@dataclass
class _Hour:
    """What was heard and found of an hour: the publishers' reports by event type; each bucket's manifest, or why it can't be
    read; and its newest report."""

    published: dict[str, list[PublishedReport]] = field(default_factory=dict)
    manifests: dict[Bucket, Manifest] = field(default_factory=dict)
    unreadable: dict[Bucket, tuple[str, ...]] = field(default_factory=dict)
    delivered: dict[Bucket, DeliveredReport] = field(default_factory=dict)

    @property
    def types(self) -> set[str]:
        claimed = {kind for report in self.delivered.values() for kind in report.counters}
        streams = {bucket.stream for bucket in (*self.delivered, *self.unreadable)} - {DEAD_LETTERS}
        return claimed | streams | set(self.published)


@dataclass(frozen=True)
class _Counts:
    """What the engine counted in one table, hour by hour, or why it could not."""

    hours: Mapping[datetime, RowCounts] = field(default_factory=dict)
    unreadable: tuple[str, ...] = ()

    def of(self, hour: datetime) -> RowCounts:
        return self.hours.get(hour, RowCounts())


def judge_hours(store: ObjectStore, tables: TableStore, hours: Sequence[datetime]) -> Iterator[Verdict]:
    """A verdict for each event type that some report speaks of or that has a bucket, hour by hour, the newest hour first.

    A file, manifest or table that can't be read makes verdicts UNKNOWN; it does not end the audit. A broken ledger, or a store
    that can't even be listed, does: raises StoreError.
    """
    if hours:
        judging = _Judging(store, tables, min(hours), max(hours))
        for hour in sorted(set(hours), reverse=True):
            yield from judging.judge(hour)


class _Judging:
    """What is known across hours. Each file is read once; skewed events are known when their own hour's turn comes."""

    def __init__(self, store: ObjectStore, tables: TableStore, first: datetime, last: datetime) -> None:
        self._store, self._tables, self._first, self._last = store, tables, first, last
        self._streams = event_types_of(store)
        self._there: dict[datetime, list[Bucket]] = {}
        for stream in sorted(self._streams | {DEAD_LETTERS}):
            for bucket in buckets_of(store, stream, first, last):
                self._there.setdefault(bucket.hour, []).append(bucket)
        self._counts: dict[str, _Counts] = {}
        self._reported: dict[datetime, frozenset[str]] = {}
        self._verifier = DuplicateVerifier(store)
        self._skewed = SkewedIds(store, self._verifier)

    def judge(self, hour: datetime) -> Iterator[Verdict]:
        told = self._listen(hour)
        dead = Bucket(DEAD_LETTERS, hour)
        dead_letter_scan = DeadLetterScan()
        if dead in told.unreadable:
            dead_letter_scan = DeadLetterScan(Seen(unreadable=told.unreadable[dead]))
        elif dead in told.manifests:
            dead_letter_scan = see_dead_letters(self._store, told.manifests[dead])
        self._skewed.add_dead_letters(dead, dead_letter_scan)
        for kind in sorted(told.types | set(dead_letter_scan.events)):
            yield judge(self._evidence(kind, hour, told, dead_letter_scan))

    def _listen(self, hour: datetime) -> _Hour:
        reports, lineages = heard(self._store, hour)
        # Of a bucket that is gone, or can't be read, its last words count.
        told = _Hour(delivered={bucket: max(each.values(), key=lambda one: one.version) for bucket, each in lineages.items()})
        for report in reports:
            told.published.setdefault(report.event_type, []).append(report)
        for bucket in {*lineages, *self._there.pop(hour, ())}:
            try:
                manifest = shown_receipt(self._store, bucket)
            except (StoreError, ManifestError) as error:
                told.unreadable[bucket] = (str(error),)
                continue
            told.manifests[bucket] = manifest
            if manifest.version:
                # A run that died between the commit and its report will never report; what it committed holds all the same.
                reported = lineages.get(bucket, {}).get(manifest.lineage)
                if reported is None or reported.version < manifest.version:
                    reported = manifest.report()
                told.delivered[bucket] = reported
        return told

    def _evidence(self, kind: str, hour: datetime, told: _Hour, dead_letter_scan: DeadLetterScan) -> Evidence:
        # A client may claim any type; what claims this one is refused, and has no bucket of its own.
        bucket = Bucket(kind, hour) if kind != DEAD_LETTERS else None
        dead = Bucket(DEAD_LETTERS, hour)
        seen = Seen()
        if bucket in told.unreadable:
            seen = Seen(unreadable=told.unreadable[bucket])
        elif bucket in told.manifests:
            seen = see_events(self._store, told.manifests[bucket], self._verifier)
        if bucket:
            self._skewed.add_events(bucket, seen)
        refused = dead_letter_scan.ids.get(kind, {})
        here = seen.ids.get(hour, set()) | refused.get(hour, set())
        unreadable = self._unreported(kind, hour, seen, dead_letter_scan)
        published = told.published.get(kind, ())
        told_of = [report.counters.get(kind, {}) for one in (bucket, dead) if one and (report := told.delivered.get(one))]
        received = sum(outcomes[Outcome.RECEIVED].count for outcomes in told_of if Outcome.RECEIVED in outcomes)
        lacks_ids = sum(report.distinct.count for report in published) > len(here | self._skewed.of(kind, hour))
        # Those may be here, and have come again too late.
        lacks_messages = sum(report.messages.count for report in published) > received
        if lacks_ids or lacks_messages:
            unreadable += self._skewed.look_after({kind, DEAD_LETTERS} & (self._streams | {DEAD_LETTERS}), hour)
        later = self._skewed.of(kind, hour)
        has_table = bucket is not None and (bucket in told.delivered or kind in self._streams)
        table, dead_table = self._count(kind) if has_table else _Counts(), self._count(DEAD_LETTERS)
        return Evidence(
            event_type=kind,
            hour=hour,
            published=tuple(published),
            delivered=told.delivered.get(bucket) if bucket else None,
            dead_letters=told.delivered.get(dead),
            files=seen.row_counts,
            table=table.of(hour),
            refused=dead_letter_scan.events.get(kind, Tally()),
            arrived=Tally.of_hashes(b"".join(here | later)),
            elsewhere=len(later),
            unheld=seen.unheld,
            dead_files=dead_letter_scan.seen.row_counts,
            dead_table=dead_table.of(hour),
            unreadable=table.unreadable
            + dead_table.unreadable
            + dead_letter_scan.seen.unreadable
            + seen.unreadable
            + unreadable,
            unexpected=dead_letter_scan.seen.unexpected + seen.unexpected,
        )

    def _unreported(self, kind: str, hour: datetime, seen: Seen, dead_letter_scan: DeadLetterScan) -> tuple[str, ...]:
        """Skewed events in this hour that no verdict on their own hour can account for."""
        ids = [*seen.ids.items(), *dead_letter_scan.ids.get(kind, {}).items()]
        number = sum(len(hashes) for claimed, hashes in ids if claimed != hour and not self._is_reported(kind, claimed))
        events = plural(number, "skewed event belongs", "skewed events belong")
        return (f"{number} {events} to hours on which no publisher has reported",) if number else ()

    def _is_reported(self, kind: str, hour: datetime) -> bool:
        if hour < FIRST_HOUR:
            return False
        if hour not in self._reported:
            reports, _ = heard(self._store, hour)
            self._reported[hour] = frozenset(report.event_type for report in reports)
        return kind in self._reported[hour]

    def _count(self, stream: str) -> _Counts:
        if stream not in self._counts:
            table = (
                dead_letters_table()
                if stream == DEAD_LETTERS
                else Table(stream, (), partition_by="received_at", id_column="event_id")
            )
            try:
                self._counts[stream] = _Counts(self._tables.row_counts(table, self._first, self._last))
            except TableStoreError as error:
                self._counts[stream] = _Counts({}, (str(error),))
        return self._counts[stream]
