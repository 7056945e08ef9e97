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
    return PublishedReport(f"{reporter}/{ids}", reporter, KIND, HOUR, Tally.of_ids(ids), Tally.of_ids(set(ids)))


def delivered(received: str, out: str, duplicates: str = "", closed: bool = True) -> DeliveredReport:
    outcomes = {Outcome.RECEIVED: received, Outcome.DELIVERED: out, Outcome.DUPLICATE: duplicates}
    return DeliveredReport(
        Bucket(KIND, HOUR), "lineage", 1, closed, {KIND: {outcome: Tally.of_ids(ids) for outcome, ids in outcomes.items()}}
    )


def refused(messages: str, closed: bool = True) -> DeliveredReport:
    outcomes = {Outcome.RECEIVED: messages, Outcome.DEAD_LETTER: messages}
    return DeliveredReport(
        Bucket(DEAD_LETTERS, HOUR),
        "lineage",
        1,
        closed,
        {KIND: {outcome: Tally.of_ids(ids) for outcome, ids in outcomes.items()}},
    )


def held(ids: str) -> RowCounts:
    return RowCounts(len(ids), Tally.of_ids(set(ids)))


GOOD = Evidence(
    KIND,
    HOUR,
    published=(published("abbx"),),
    delivered=delivered("abb", "ab", "b"),
    dead_letters=refused("7"),
    files=held("ab"),
    table=held("ab"),
    refused=Tally.of_ids("x"),
    arrived=Tally.of_ids("abx"),
    dead_files=held("7"),
    dead_table=held("7"),
)


def test_all_that_agrees_is_complete() -> None:
    verdict = judge(GOOD)
    assert (verdict.status, verdict.findings) == (Status.COMPLETE, ())
    assert (verdict.published, verdict.received, verdict.in_files, verdict.in_table) == (4, 4, 2, 2)
    assert (verdict.duplicates, verdict.dead_letters, verdict.late) == (1, 1, 0)


def test_an_empty_hour_that_was_reported_and_closed_is_complete() -> None:
    empty = Evidence(KIND, HOUR, published=(published(""),), delivered=delivered("", ""), dead_letters=refused(""))
    assert judge(empty).status is Status.COMPLETE


def test_a_redelivery_by_pubsub_is_no_alarm() -> None:
    again = replace(GOOD, delivered=delivered("abbaa", "ab", "baa"))
    assert judge(again).status is Status.COMPLETE


def test_reports_of_one_publisher_add_up() -> None:
    assert judge(replace(GOOD, published=(published("abb"), published("x")))).status is Status.COMPLETE


def test_publishers_whose_ids_add_up_to_what_arrived_are_no_alarm() -> None:
    assert judge(replace(GOOD, published=(published("abb"), published("x", "other")))).status is Status.COMPLETE


def test_one_id_published_by_two_publishers_is_not_complete_and_no_alarm_either() -> None:
    verdict = judge(replace(GOOD, published=(published("abx"), published("b", "other"))))
    assert verdict.status is Status.UNKNOWN
    assert "4 ids were reported by 2 publishers, 3 arrived" in verdict.findings[0]


def test_a_good_event_that_was_dropped_as_a_duplicate_is_missing() -> None:
    """b was published twice, and so was c; the first of them is in the files, both of the others are counted as duplicates."""
    dropped = replace(
        GOOD,
        published=(published("abbccx"),),
        delivered=delivered("abbcc", "ab", "bcc"),
    )
    verdict = judge(dropped)
    assert verdict.status is Status.MISSING
    assert verdict.findings == ("4 ids were published, 3 arrived",)


@pytest.mark.parametrize("published_ids", ["abbccx", "abbcx"])
def test_two_publishers_do_not_hide_it(published_ids: str) -> None:
    reports = published(published_ids), published("", "other")
    dropped = replace(GOOD, published=reports, delivered=delivered("abbcc", "ab", "bcc"))
    assert judge(dropped).status is Status.UNKNOWN


def test_a_message_that_is_lost_for_sure_is_missing_whoever_published_it() -> None:
    assert judge(replace(GOOD, published=(published("abbx"), published("c", "other")))).status is Status.MISSING


def test_an_hour_of_which_all_came_too_late_needs_no_bucket() -> None:
    late = Evidence(KIND, HOUR, published=(published("abb"),), arrived=Tally.of_ids("ab"), elsewhere=2)
    assert judge(late).status is Status.COMPLETE
    assert judge(replace(late, published=(published("abc"),))).status is Status.MISSING
    assert judge(replace(late, delivered=delivered("", "", closed=False))).status is Status.UNKNOWN


def test_what_came_too_late_counts_as_arrived() -> None:
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
        ({"files": held("a")}, Status.MISSING_AND_SURPLUS),
        ({"files": held("a"), "table": held("a")}, Status.MISSING),
        ({"table": held("a")}, Status.MISSING),
        ({"table": held("abc")}, Status.SURPLUS),
        ({"table": held("ac")}, Status.MISSING_AND_SURPLUS),
        ({"table": RowCounts(3, Tally.of_ids("ab"))}, Status.SURPLUS),
        ({"files": RowCounts(3, Tally.of_ids("ab"))}, Status.SURPLUS),
        ({"dead_table": held("")}, Status.MISSING),
        ({"dead_files": held("8")}, Status.MISSING_AND_SURPLUS),
        ({"unexpected": ("part-x.avro",)}, Status.SURPLUS),
        ({"published": (published("cbbx"),)}, Status.MISSING_AND_SURPLUS),
    ],
)
def test_each_fault_is_seen_and_told(change: dict[str, object], status: Status) -> None:
    verdict = judge(replace(GOOD, **change))  # type: ignore[arg-type]
    assert verdict.status is status
    assert verdict.findings


def test_a_loss_and_a_duplicate_that_cancel_in_every_count_are_seen() -> None:
    """c was published and lost; a came twice and was delivered twice as if it were two events: all counts agree."""
    fooled = Evidence(
        KIND,
        HOUR,
        published=(published("abc"),),
        delivered=delivered("aba", "aba"),
        dead_letters=refused(""),
        files=RowCounts(3, Tally.of_ids("ab")),
        table=RowCounts(3, Tally.of_ids("ab")),
    )
    assert judge(fooled).status is Status.MISSING_AND_SURPLUS


def test_what_is_unknown_still_tells_what_else_was_found() -> None:
    verdict = judge(replace(GOOD, published=(), table=held("a")))
    assert verdict.status is Status.UNKNOWN
    assert len(verdict.findings) == 2
    assert verdict.published is None
