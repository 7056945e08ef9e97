"""Verdicts from evidence alone, without stores."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from audit.verdicts import Evidence, Status, judge
from schemas.audit_reports import DeliveredReport, PublishedReport
from schemas.buckets import DEAD_LETTERS, Bucket
from schemas.fingerprints import Tally
from schemas.outcomes import Outcome
from storage.tables.base import RowCounts

HOUR = datetime(2026, 1, 31, 9, tzinfo=UTC)
KIND = "search_made"


def published(ids: str, reporter: str = "r") -> PublishedReport:
    """A publisher's report on these ids. A letter is an id, and may occur several times."""
    return PublishedReport(f"{reporter}/{ids}", reporter, KIND, HOUR, Tally.of_ids(ids), Tally.of_ids(set(ids)))


def delivered(received: str, out: str, duplicates: str = "", closed: bool = True) -> DeliveredReport:
    """Deliver's report on a bucket: ids received, delivered and dropped as duplicates, one letter each."""
    outcomes = {Outcome.RECEIVED: received, Outcome.DELIVERED: out, Outcome.DUPLICATE: duplicates}
    return DeliveredReport(
        Bucket(KIND, HOUR), "lineage", 1, closed, {KIND: {outcome: Tally.of_ids(ids) for outcome, ids in outcomes.items()}}
    )


def refused(messages: str, closed: bool = True) -> DeliveredReport:
    """Deliver's report on the hour's dead letters, one letter per message id."""
    outcomes = {Outcome.RECEIVED: messages, Outcome.DEAD_LETTER: messages}
    return DeliveredReport(
        Bucket(DEAD_LETTERS, HOUR),
        "lineage",
        1,
        closed,
        {KIND: {outcome: Tally.of_ids(ids) for outcome, ids in outcomes.items()}},
    )


def row_counts(ids: str) -> RowCounts:
    """Row counts of files or a table with these ids."""
    return RowCounts(len(ids), Tally.of_ids(set(ids)))


GOOD = Evidence(
    KIND,
    HOUR,
    published=(published("abbx"),),
    delivered=delivered("abb", "ab", "b"),
    dead_letters=refused("7"),
    files=row_counts("ab"),
    table=row_counts("ab"),
    refused=Tally.of_ids("x"),
    arrived=Tally.of_ids("abx"),
    dead_files=row_counts("7"),
    dead_table=row_counts("7"),
)


def test_judge__all_evidence_agrees() -> None:
    verdict = judge(GOOD)
    assert (verdict.status, verdict.findings) == (Status.COMPLETE, ())
    assert (verdict.published, verdict.received, verdict.in_files, verdict.in_table) == (4, 4, 2, 2)
    assert (verdict.duplicates, verdict.dead_letters, verdict.late) == (1, 1, 0)


def test_judge__empty_closed_hour() -> None:
    empty = Evidence(KIND, HOUR, published=(published(""),), delivered=delivered("", ""), dead_letters=refused(""))
    assert judge(empty).status is Status.COMPLETE


def test_judge__redelivery_is_complete() -> None:
    again = replace(GOOD, delivered=delivered("abbaa", "ab", "baa"))
    assert judge(again).status is Status.COMPLETE


def test_judge__reports_of_one_publisher_add_up() -> None:
    assert judge(replace(GOOD, published=(published("abb"), published("x")))).status is Status.COMPLETE


def test_judge__two_publishers_add_up() -> None:
    """Two publishers are no alarm if their ids add up to those that arrived."""
    assert judge(replace(GOOD, published=(published("abb"), published("x", "other")))).status is Status.COMPLETE


def test_judge__id_of_two_publishers() -> None:
    """An id that two publishers report is neither COMPLETE nor an alarm."""
    verdict = judge(replace(GOOD, published=(published("abx"), published("b", "other"))))
    assert verdict.status is Status.UNKNOWN
    assert "4 ids were reported by 2 publishers, 3 arrived" in verdict.findings[0]


def test_judge__event_dropped_as_duplicate() -> None:
    """A valid event that was dropped as a duplicate is missing.

    b and c were published twice. The first b is in the files; the second b and both c are counted as duplicates.
    """
    dropped = replace(
        GOOD,
        published=(published("abbccx"),),
        delivered=delivered("abbcc", "ab", "bcc"),
    )
    verdict = judge(dropped)
    assert verdict.status is Status.MISSING
    assert verdict.findings == ("4 ids were published, 3 arrived",)


@pytest.mark.parametrize("published_ids", ["abbccx", "abbcx"])
def test_judge__event_dropped_with_two_publishers(published_ids: str) -> None:
    """With two publishers, an event that was dropped as a duplicate gives UNKNOWN, never COMPLETE."""
    reports = published(published_ids), published("", "other")
    dropped = replace(GOOD, published=reports, delivered=delivered("abbcc", "ab", "bcc"))
    assert judge(dropped).status is Status.UNKNOWN


def test_judge__lost_message_with_two_publishers() -> None:
    """A message that is certainly lost is MISSING, whichever publisher sent it."""
    assert judge(replace(GOOD, published=(published("abbx"), published("c", "other")))).status is Status.MISSING


def test_judge__all_events_skewed() -> None:
    """An hour whose events were all skewed needs no bucket."""
    late = Evidence(KIND, HOUR, published=(published("abb"),), arrived=Tally.of_ids("ab"), elsewhere=2)
    assert judge(late).status is Status.COMPLETE
    assert judge(replace(late, published=(published("abc"),))).status is Status.MISSING
    assert judge(replace(late, delivered=delivered("", "", closed=False))).status is Status.UNKNOWN


def test_judge__skewed_events_count_as_arrived() -> None:
    late = replace(GOOD, published=(published("abbxll"),), arrived=Tally.of_ids("abxl"), elsewhere=1)
    assert judge(late).status is Status.COMPLETE
    assert judge(replace(late, arrived=GOOD.arrived, elsewhere=0)).status is Status.MISSING


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"published": ()}, Status.UNKNOWN),
        ({"delivered": None, "refused": Tally()}, Status.UNKNOWN),
        ({"delivered": delivered("abb", "ab", "b", closed=False)}, Status.UNKNOWN),
        ({"dead_letters": None}, Status.UNKNOWN),
        ({"dead_letters": refused("7", closed=False)}, Status.UNKNOWN),
        ({"unreadable": ("a file can't be read",)}, Status.UNKNOWN),
        ({"published": (published("abbxc"),)}, Status.MISSING),
        ({"delivered": delivered("abb", "ab")}, Status.MISSING),
        ({"delivered": delivered("ab", "ab", "b")}, Status.MISSING_AND_SURPLUS),
        ({"files": row_counts("a")}, Status.MISSING_AND_SURPLUS),
        ({"files": row_counts("a"), "table": row_counts("a")}, Status.MISSING),
        ({"table": row_counts("a")}, Status.MISSING),
        ({"table": row_counts("abc")}, Status.SURPLUS),
        ({"table": row_counts("ac")}, Status.MISSING_AND_SURPLUS),
        ({"table": RowCounts(3, Tally.of_ids("ab"))}, Status.SURPLUS),
        ({"files": RowCounts(3, Tally.of_ids("ab"))}, Status.SURPLUS),
        ({"dead_table": row_counts("")}, Status.MISSING),
        ({"dead_files": row_counts("8")}, Status.MISSING_AND_SURPLUS),
        ({"unexpected": ("part-x.avro",)}, Status.SURPLUS),
        ({"published": (published("cbbx"),)}, Status.MISSING_AND_SURPLUS),
    ],
)
def test_judge__each_fault_has_a_finding(change: dict[str, object], status: Status) -> None:
    verdict = judge(replace(GOOD, **change))  # type: ignore[arg-type]
    assert verdict.status is status
    assert verdict.findings


def test_judge__loss_and_duplicate_cancel() -> None:
    """A loss and a duplicate are found even if they cancel in every count.

    c was published and lost; a arrived twice and was delivered twice as if it were two events.
    """
    evidence = Evidence(
        KIND,
        HOUR,
        published=(published("abc"),),
        delivered=delivered("aba", "aba"),
        dead_letters=refused(""),
        files=RowCounts(3, Tally.of_ids("ab")),
        table=RowCounts(3, Tally.of_ids("ab")),
    )
    assert judge(evidence).status is Status.MISSING_AND_SURPLUS


def test_judge__unknown_lists_other_findings() -> None:
    """An UNKNOWN verdict still lists all other findings."""
    verdict = judge(replace(GOOD, published=(), table=row_counts("a")))
    assert verdict.status is Status.UNKNOWN
    assert len(verdict.findings) == 2
    assert verdict.published is None
