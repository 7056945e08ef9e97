"""Verdicts: what the audit says of one event type in one hour, from what independent witnesses have seen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from schemas.audit_reports import DeliveredReport, PublishedReport
from schemas.errors import plural
from schemas.fingerprints import Tally, total
from schemas.outcomes import Outcome
from storage.tables.base import RowCounts


class Status(StrEnum):
    """COMPLETE is said only when everything has been seen and agrees; no data is UNKNOWN."""

    COMPLETE = "COMPLETE"
    MISSING = "MISSING"
    SURPLUS = "SURPLUS"
    MISSING_AND_SURPLUS = "MISSING_AND_SURPLUS"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True)
class Evidence:
    """What is known of one event type and hour, each from a witness of its own.

    published: the publishers' reports, one of each id; delivered, dead_letters: the newest report of the type's bucket and
    of the hour's dead letters, None where there is none; files, table: what was counted there; refused: every dead letter
    in the files, by event id; arrived: the distinct ids that the files hold, delivered or refused, of what was published
    for this hour, or dropped since another hour holds them, as it does; elsewhere: how many of those a later hour's files
    tell of, as they came, or came again, too late for this one; unheld: how many ids the bucket dropped since another hour
    holds them, and that hour does not; dead_files, dead_table: the hour's dead letters of all types, by message id;
    unreadable: what a witness could not see or can't trust; unexpected: files in the bucket that no manifest lists.
    """

    event_type: str
    hour: datetime
    published: tuple[PublishedReport, ...] = ()
    delivered: DeliveredReport | None = None
    dead_letters: DeliveredReport | None = None
    files: RowCounts = RowCounts()
    table: RowCounts = RowCounts()
    refused: Tally = Tally()
    arrived: Tally = Tally()
    elsewhere: int = 0
    unheld: int = 0
    dead_files: RowCounts = RowCounts()
    dead_table: RowCounts = RowCounts()
    unreadable: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """The numbers of one event type and hour, and what follows from them. findings: a sentence each, for people."""

    event_type: str
    hour: datetime
    status: Status
    published: int | None
    received: int
    in_files: int
    in_table: int
    late: int
    duplicates: int
    dead_letters: int
    findings: tuple[str, ...] = ()


def judge(evidence: Evidence) -> Verdict:
    """The verdict.

    COMPLETE needs a publisher's report, closed buckets, counters that balance, and files and table that agree with the
    counters, with each other, and as sets of ids with what was published. What is not seen makes UNKNOWN, whatever else was
    found.
    """
    findings = list(_findings(evidence))
    sides = {side for side, _ in findings}
    if Status.UNKNOWN in sides:
        status = Status.UNKNOWN
    elif len(sides) > 1:
        status = Status.MISSING_AND_SURPLUS
    else:
        status = next(iter(sides), Status.COMPLETE)
    return Verdict(
        event_type=evidence.event_type,
        hour=evidence.hour,
        status=status,
        published=_published(evidence).count if evidence.published else None,
        received=_counters(evidence, Outcome.RECEIVED).count,
        in_files=evidence.files.rows,
        in_table=evidence.table.rows,
        late=evidence.delivered.late if evidence.delivered else 0,
        duplicates=_counters(evidence, Outcome.DUPLICATE).count,
        dead_letters=evidence.refused.count,
        findings=tuple(text for _, text in findings),
    )


def _published(e: Evidence) -> Tally:
    return total(report.messages for report in e.published)


def _counters(e: Evidence, outcome: Outcome) -> Tally:
    reports = (report for report in (e.delivered, e.dead_letters) if report)
    return total(report.counters.get(e.event_type, {}).get(outcome, Tally()) for report in reports)


def _findings(e: Evidence) -> Iterator[tuple[Status, str]]:
    yield from ((Status.UNKNOWN, text) for text in _unseen(e))
    yield from ((Status.SURPLUS, f"{name} is in the bucket's folder, but in no manifest") for name in e.unexpected)

    if e.unheld:
        ids = plural(
            e.unheld,
            "id was dropped as a duplicate of a row in another hour, which does not contain it",
            "ids were dropped as duplicates of rows in other hours, which do not contain them",
        )
        yield Status.MISSING, f"{e.unheld} {ids}"
    published, received, delivered = _published(e), _counters(e, Outcome.RECEIVED), _counters(e, Outcome.DELIVERED)
    if _lost(e):
        messages = plural(published.count, "message was", "messages were")
        yield Status.MISSING, f"{published.count} {messages} published, {received.count} received"
    ways_out = delivered + _counters(e, Outcome.DUPLICATE) + _counters(e, Outcome.DEAD_LETTER)
    yield from _differ("received", received, "delivered, duplicate or dead letter", ways_out)
    yield from _differ("counted as delivered", delivered, "in the files", e.files.distinct)
    yield from _differ("in the files", e.files.distinct, "in the table", e.table.distinct)
    for place, row_counts in (
        ("files", e.files),
        ("table", e.table),
        ("dead-letter files", e.dead_files),
        ("dead-letter table", e.dead_table),
    ):
        if row_counts.rows > (distinct := row_counts.distinct.count):
            ids = plural(distinct, "id")
            yield Status.SURPLUS, f"{row_counts.rows} rows in the {place} have only {distinct} distinct {ids}"
    dead = _counters(e, Outcome.DEAD_LETTER).count
    if e.refused.count != dead:
        side = Status.MISSING if e.refused.count < dead else Status.SURPLUS
        letters = plural(dead, "dead letter was", "dead letters were")
        yield side, f"{dead} {letters} counted, {e.refused.count} found in the files"
    if dead or e.refused.count:
        letters = plural(e.dead_files.distinct.count, "dead letter of the hour is", "dead letters of the hour are")
        yield from _differ(f"{letters} in the files", e.dead_files.distinct, "in the table", e.dead_table.distinct)
    if e.published:
        yield from _sets_differ(e)


def _unseen(e: Evidence) -> Iterator[str]:
    if not e.published:
        yield "no publisher has reported on this hour"
    if e.delivered is None:
        if not e.refused.count and not e.elsewhere:
            yield "the bucket has no manifest"
    elif not e.delivered.closed:
        yield "the bucket is not closed"
    # Where all of an hour came too late for it, the hour has no bucket at all, and needs none.
    came_too_late = e.elsewhere > 0 and e.delivered is None and e.dead_letters is None
    if not came_too_late and (e.dead_letters is None or not e.dead_letters.closed):
        yield "the dead-letter bucket of the hour is not closed"
    yield from e.unreadable


def _differ(what: str, expected: Tally, where: str, found: Tally) -> Iterator[tuple[Status, str]]:
    if found == expected:
        return
    if found.count == expected.count:
        yield Status.MISSING_AND_SURPLUS, f"{expected.count} {what}, as many {where}, but with different ids"
        return
    side = Status.MISSING if found.count < expected.count else Status.SURPLUS
    yield side, f"{expected.count} {what}, {found.count} {where}"


def _lost(e: Evidence) -> bool:
    """Whether fewer messages came than were published: then some are lost, even if another message brought the event.

    What came too late for the hour was counted as received in another one, with its repeats, and can't be told apart there.
    """
    return not e.elsewhere and _counters(e, Outcome.RECEIVED).count < _published(e).count


def _sets_differ(e: Evidence) -> Iterator[tuple[Status, str]]:
    """Whether the ids that were published are those that arrived. What deliver calls duplicates is no witness: they were
    dropped, and an event that was dropped by mistake is what is looked for.

    A reporter counts an id once, however often it publishes it. Two of them may have published the same one: a sum of
    theirs that exceeds what arrived proves neither that something is lost nor that nothing is.
    """
    distinct = total(report.distinct for report in e.published)
    reporters = len({report.reporter for report in e.published})
    if reporters == 1 or distinct.count <= e.arrived.count:
        yield from _differ(f"{plural(distinct.count, 'id was', 'ids were')} published", distinct, "arrived", e.arrived)
    elif not _lost(e):
        numbers = f"{distinct.count} ids were reported by {reporters} publishers, {e.arrived.count} arrived"
        yield Status.UNKNOWN, f"{numbers}: the audit can't yet tell ids that several publishers report from lost ones"
