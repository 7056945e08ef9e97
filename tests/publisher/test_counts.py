"""Counts of acknowledged events, and the reports on them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from publisher.counts import Acknowledged, Ledger, claimed_hour
from schemas.audit_reports import PublishedReport, parse_report
from schemas.fingerprints import Tally, total

HOUR = datetime(2026, 1, 31, 9, tzinfo=UTC)
NEXT = HOUR + timedelta(hours=1)


def acknowledged(*ids: str, event_type: str = "click", hour: datetime = HOUR) -> list[Acknowledged]:
    return [Acknowledged(event_type, hour, event_id) for event_id in ids]


def counts(reports: list[PublishedReport]) -> dict[tuple[str, datetime], tuple[int, int]]:
    return {(report.event_type, report.hour): (report.messages.count, report.distinct.count) for report in reports}


def test_add__per_type_and_hour() -> None:
    ledger = Ledger()
    ledger.add(acknowledged("a", "b") + acknowledged("a", event_type="view") + acknowledged("a", hour=NEXT))
    assert counts(ledger.reports("r")) == {("click", HOUR): (2, 2), ("view", HOUR): (1, 1), ("click", NEXT): (1, 1)}


def test_add__repeated_id() -> None:
    """A repeated id counts once as distinct, within and across batches."""
    ledger = Ledger()
    ledger.add(acknowledged("a", "a", "b"))
    ledger.add(acknowledged("b", "c"))
    (report,) = ledger.reports("r")
    assert report.messages == Tally.of_ids(["a", "a", "b", "b", "c"])
    assert report.distinct == Tally.of_ids(["a", "b", "c"])


def test_reports__only_new_events() -> None:
    """A later report contains only new events, and no earlier id as distinct."""
    ledger = Ledger()
    ledger.add(acknowledged("a", "b"))
    first = ledger.reports("r")
    ledger.add(acknowledged("b", "c"))
    second = ledger.reports("r")
    assert second[0].messages == Tally.of_ids(["b", "c"])
    assert second[0].distinct == Tally.of_ids(["c"])
    assert total(report.distinct for report in first + second) == Tally.of_ids(["a", "b", "c"])


def test_reports__nothing_new() -> None:
    ledger = Ledger()
    ledger.add(acknowledged("a"))
    assert len(ledger.reports("r")) == 1
    assert ledger.reports("r") == []


def test_expect__hour_without_events() -> None:
    ledger = Ledger()
    ledger.expect("click", HOUR)
    (report,) = ledger.reports("r")
    assert (report.event_type, report.hour, report.messages, report.distinct) == ("click", HOUR, Tally(), Tally())


def test_expect__hour_with_events() -> None:
    """Expecting an hour that has events changes no count."""
    ledger = Ledger()
    ledger.expect("click", HOUR)
    ledger.add(acknowledged("a"))
    ledger.expect("click", HOUR)
    assert counts(ledger.reports("r")) == {("click", HOUR): (1, 1)}


def test_reports__ids_are_reproducible() -> None:
    """The same run makes the same report ids; all others differ."""

    def run(reporter: str) -> list[str]:
        ledger = Ledger()
        ids = []
        for _ in range(2):
            ledger.add(acknowledged("a") + acknowledged("a", hour=NEXT) + acknowledged("a", event_type="view"))
            ids += [report.id for report in ledger.reports(reporter)]
        return ids

    assert run("r") == run("r")
    assert len({*run("r"), *run("s")}) == 12


def test_reports__id_fits_an_attribute() -> None:
    """A report's id fits an attribute, however long the event type is."""
    ledger = Ledger()
    ledger.add(acknowledged("a", event_type="x" * 1_024))
    assert len(ledger.reports("r" * 1_024)[0].id) < 100


def test_reports__round_trip() -> None:
    ledger = Ledger()
    ledger.add(acknowledged("a", "a", event_type=""))
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
def test_claimed_hour__stamp_or_clock(stamp: str | None, hour: datetime) -> None:
    """A stamp that deliver accepts decides the hour, otherwise the clock does."""
    assert claimed_hour({} if stamp is None else {"received_at": stamp}, NOW) == hour


def test_claimed_hour__stamp_ahead_of_the_clock() -> None:
    """A stamp a little ahead of the clock still decides the hour."""
    now = NEXT - timedelta(minutes=1)
    assert claimed_hour({"received_at": "2026-01-31T10:03:59Z"}, now) == NEXT
    assert claimed_hour({"received_at": "2026-01-31T10:04:01Z"}, now) == HOUR
