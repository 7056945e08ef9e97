"""Judging: gathers the evidence for hours, and has each event type in them judged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from schemas.buckets import DEAD_LETTERS, Bucket
from schemas.fingerprints import Tally
from schemas.reports import Delivered, Published
from schemas.tables import Table, dead_letters_table
from schemas.verdicts import Evidence, Held, Verdict, judge
from transforms.buckets import Buckets
from transforms.ledger import heard
from transforms.tables import Facts, Tables, TablesError
from transforms.witnesses import see_dead_letters, see_events


@dataclass(frozen=True)
class _Hour:
    """What was heard of an hour: the publishers by event type, and each bucket's newest report."""

    hour: datetime
    published: Mapping[str, Sequence[Published]]
    delivered: Mapping[Bucket, Delivered]

    @property
    def types(self) -> set[str]:
        named = {kind for report in self.delivered.values() for kind in report.books}
        streams = {bucket.stream for bucket in self.delivered} - {DEAD_LETTERS}
        return named | streams | set(self.published)


def judge_hours(buckets: Buckets, tables: Tables, hours: Sequence[datetime]) -> Iterator[Verdict]:
    """A verdict for each event type that some report speaks of, hour by hour.

    A store that can't be read makes verdicts UNKNOWN; it does not end the audit. A broken ledger does: raises BucketsError.
    """
    told = [_listen(buckets, hour) for hour in hours]
    counts = _count_tables(tables, told)
    for hour in told:
        yield from _judge_hour(buckets, hour, counts)


def _listen(buckets: Buckets, hour: datetime) -> _Hour:
    reports, delivered = heard(buckets, hour)
    published: dict[str, list[Published]] = {}
    for report in reports:
        published.setdefault(report.event_type, []).append(report)
    return _Hour(hour, published, delivered)


@dataclass(frozen=True)
class _Counts:
    """What the engine counted in one table, hour by hour, or why it could not."""

    hours: Mapping[datetime, Facts]
    unreadable: tuple[str, ...] = ()

    def held(self, hour: datetime) -> Held:
        facts = self.hours.get(hour)
        return Held(facts.rows, facts.distinct) if facts else Held()


def _count_tables(tables: Tables, told: Sequence[_Hour]) -> dict[str, _Counts]:
    spans: dict[str, list[datetime]] = {}
    for hour in told:
        for stream in {bucket.stream for bucket in hour.delivered} | {DEAD_LETTERS}:
            spans.setdefault(stream, []).append(hour.hour)
    counts = {}
    for stream, hours in spans.items():
        table = (
            dead_letters_table()
            if stream == DEAD_LETTERS
            else Table(stream, (), partition_by="received_at", id_column="event_id")
        )
        try:
            counts[stream] = _Counts(tables.facts(table, min(hours), max(hours)))
        except TablesError as error:
            counts[stream] = _Counts({}, (str(error),))
    return counts


def _judge_hour(buckets: Buckets, told: _Hour, counts: Mapping[str, _Counts]) -> Iterator[Verdict]:
    dead = Bucket(DEAD_LETTERS, told.hour)
    refusals = see_dead_letters(buckets, dead)
    dead_counts = counts[DEAD_LETTERS]
    for kind in sorted(told.types | set(refusals.ids)):
        bucket = Bucket(kind, told.hour)
        refused = refusals.ids.get(kind, [])
        table = counts.get(kind, _Counts({}))
        delivered = told.delivered.get(bucket)
        seen = see_events(buckets, bucket, refused) if delivered else None
        yield judge(
            Evidence(
                event_type=kind,
                hour=told.hour,
                published=tuple(told.published.get(kind, ())),
                delivered=delivered,
                dead_letters=told.delivered.get(dead),
                files=seen.held if seen else Held(),
                table=table.held(told.hour),
                refused=Tally.of_ids(refused),
                only_refused=Tally.of_ids(seen.absent if seen else set(refused)),
                dead_files=refusals.seen.held,
                dead_table=dead_counts.held(told.hour),
                unreadable=table.unreadable
                + dead_counts.unreadable
                + refusals.seen.unreadable
                + (seen.unreadable if seen else ()),
                foreign=refusals.seen.foreign + (seen.foreign if seen else ()),
            )
        )
