from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from publisher.counts import Acknowledged, Ledger, claimed_hour
from schemas.audit_reports import PublishedReport, parse_report
from schemas.fingerprints import Tally, total

HOUR = datetime(2026, 1, 31, 9, tzinfo=UTC)
NEXT = HOUR + timedelta(hours=1)


def taken(*ids: str, event_type: str = "click", hour: datetime = HOUR) -> list[Acknowledged]:
    return [Acknowledged(event_type, hour, event_id) for event_id in ids]


def counts(reports: list[PublishedReport]) -> dict[tuple[str, datetime], tuple[int, int]]:
    return {(one.event_type, one.hour): (one.messages.count, one.distinct.count) for one in reports}


def test_each_type_and_hour_is_counted_for_itself() -> None:
    ledger = Ledger()
    ledger.add(taken("a", "b") + taken("a", event_type="view") + taken("a", hour=NEXT))
    assert counts(ledger.reports("r")) == {("click", HOUR): (2, 2), ("view", HOUR): (1, 1), ("click", NEXT): (1, 1)}


def test_an_id_that_comes_twice_counts_once_as_distinct_within_and_across_batches() -> None:
    ledger = Ledger()
    ledger.add(taken("a", "a", "b"))
    ledger.add(taken("b", "c"))
    (report,) = ledger.reports("r")
    assert report.messages == Tally.of_ids(["a", "a", "b", "b", "c"])
    assert report.distinct == Tally.of_ids(["a", "b", "c"])


def test_a_later_report_tells_only_what_came_since_and_never_an_old_id_as_distinct() -> None:
    ledger = Ledger()
    ledger.add(taken("a", "b"))
    first = ledger.reports("r")
    ledger.add(taken("b", "c"))
    second = ledger.reports("r")
    assert second[0].messages == Tally.of_ids(["b", "c"])
    assert second[0].distinct == Tally.of_ids(["c"])
    assert total(one.distinct for one in first + second) == Tally.of_ids(["a", "b", "c"])


def test_nothing_new_is_no_report() -> None:
    ledger = Ledger()
    ledger.add(taken("a"))
    assert len(ledger.reports("r")) == 1
    assert ledger.reports("r") == []


def test_an_expected_hour_without_events_is_reported_as_zero() -> None:
    ledger = Ledger()
    ledger.expect("click", HOUR)
    (report,) = ledger.reports("r")
    assert (report.event_type, report.hour, report.messages, report.distinct) == ("click", HOUR, Tally(), Tally())


def test_expecting_an_hour_that_has_events_changes_no_count() -> None:
    ledger = Ledger()
    ledger.expect("click", HOUR)
    ledger.add(taken("a"))
    ledger.expect("click", HOUR)
    assert counts(ledger.reports("r")) == {("click", HOUR): (1, 1)}


def test_the_same_run_makes_the_same_report_ids_and_all_others_differ() -> None:
    def run(reporter: str) -> list[str]:
        ledger = Ledger()
        ids = []
        for _ in range(2):
            ledger.add(taken("a") + taken("a", hour=NEXT) + taken("a", event_type="view"))
            ids += [report.id for report in ledger.reports(reporter)]
        return ids

    assert run("r") == run("r")
    assert len({*run("r"), *run("s")}) == 12


def test_a_report_has_an_id_that_fits_an_attribute_however_long_the_type_is() -> None:
    ledger = Ledger()
    ledger.add(taken("a", event_type="x" * 1_024))
    assert len(ledger.reports("r" * 1_024)[0].id) < 100


def test_a_report_can_be_read_back() -> None:
    ledger = Ledger()
    ledger.add(taken("a", "a", event_type=""))
    (report,) = ledger.reports("r")
    assert parse_report(report.to_json()) == report


NOW = HOUR + timedelta(minutes=30)


@pytest.mark.parametrize(
    ("stamp", "hour"),
    [
        (None, HOUR),
        ("2026-01-30T23:59:59.999999Z", datetime(2026, 1, 30, 23, tzinfo=UTC)),
        ("2026-01-31T11:30:00+02:00", HOUR),
        ("2026-01-31T10:00:00Z", HOUR),
        ("yesterday", HOUR),
        ("0001-01-01T00:00:00+01:00", HOUR),
        ("2999-01-01T00:00:00Z", HOUR),
    ],
    ids=["none", "past", "with an offset", "30 minutes ahead", "unreadable", "before all years", "far ahead"],
)
def test_a_stamp_that_the_receiver_accepts_decides_the_hour_and_the_clock_otherwise(stamp: str | None, hour: datetime) -> None:
    assert claimed_hour({} if stamp is None else {"received_at": stamp}, NOW) == hour


def test_a_stamp_a_little_ahead_of_the_clock_still_decides_the_hour() -> None:
    now = NEXT - timedelta(minutes=1)
    assert claimed_hour({"received_at": "2026-01-31T10:03:59Z"}, now) == NEXT
    assert claimed_hour({"received_at": "2026-01-31T10:04:01Z"}, now) == HOUR
