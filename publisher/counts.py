"""Counts of the acknowledged messages and distinct event ids of each event type and hour, for the audit."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from schemas.audit_reports import PublishedReport
from schemas.buckets import hour_of
from schemas.envelope import MAX_CLOCK_SKEW, RECEIVED_AT, format_time, parse_time
from schemas.fingerprints import Tally, id_hash

_REPORTS = uuid.UUID("5b0c6fd4-2f0e-4d0b-9a39-6c1d8d3d8f10")
"""The namespace of report ids."""


class Acknowledged(NamedTuple):
    """A message that Pub/Sub has acknowledged."""

    event_type: str
    """As in the message's attribute; "" if there is none."""
    hour: datetime
    event_id: str
    """The message id if the message has no event id."""


@dataclass
class _Account:
    """Counts of one event type in one hour."""

    messages: Tally = Tally()
    """Messages since the last report."""
    distinct: Tally = Tally()
    """Ids since the last report that no earlier report counts."""
    seen: set[bytes] = field(default_factory=set)
    """Hashes of all ids ever counted."""
    due: bool = True
    """Whether the next report includes this type and hour."""


class Ledger:
    """Counts acknowledged messages per event type and hour, and makes reports of the counts. Not thread-safe.

    A repeated id of the same type and hour counts in `messages` again, but only once in `distinct`, no matter how many reports
    were made in between. So the ledger stores the hash of every id: about 100 bytes of memory per distinct event.
    """

    def __init__(self) -> None:
        self._accounts: dict[tuple[str, datetime], _Account] = defaultdict(_Account)
        self._sequence = 0

    def add(self, acknowledged: Iterable[Acknowledged]) -> None:
        """Count messages. Many in one call are cheaper than many calls."""
        batches: dict[tuple[str, datetime], list[bytes]] = defaultdict(list)
        for event_type, hour, event_id in acknowledged:
            batches[event_type, hour].append(id_hash(event_id))
        for key, hashes in batches.items():
            account = self._accounts[key]
            new = set(hashes) - account.seen
            account.seen |= new
            account.messages += Tally.of_hashes(b"".join(hashes))
            account.distinct += Tally.of_hashes(b"".join(new))
            account.due = True

    def expect(self, event_type: str, hour: datetime) -> None:
        """Include this type and hour in the next reports, with a count of zero if nothing is published.

        Without it, the audit can't tell an hour without events from an hour whose report was lost.
        """
        self._accounts[event_type, hour_of(hour)].due = True

    def reports(self, reporter: str) -> list[PublishedReport]:
        """Return one report for each type and hour that was counted or expected since the last call, ordered by hour.

        Reports of one type and hour add up. The id of a report is derived from reporter, type, hour and the number of the call,
        so a report that is sent twice has the same content under the same id.

        Args:
            reporter: differs between runs.
        """
        self._sequence += 1
        due = sorted((key for key, account in self._accounts.items() if account.due), key=lambda key: (key[1], key[0]))
        reports = []
        for event_type, hour in due:
            account = self._accounts[event_type, hour]
            report_id = str(uuid.uuid5(_REPORTS, f"{reporter}/{event_type}/{format_time(hour)}/{self._sequence}"))
            reports.append(PublishedReport(report_id, reporter, event_type, hour, account.messages, account.distinct))
            account.messages, account.distinct, account.due = Tally(), Tally(), False
        return reports


def claimed_hour(attributes: Mapping[str, str], now: datetime) -> datetime:
    """Return the hour in which a message with these attributes counts if it is published now.

    It is the hour of the attribute received_at. It is the current hour if deliver would ignore that attribute, because it is
    missing, can't be parsed, or is more than MAX_CLOCK_SKEW in the future.
    """
    text = attributes.get(RECEIVED_AT)
    if text is None:
        return hour_of(now)
    try:
        received_at = parse_time(text)
    except (ValueError, OverflowError):
        return hour_of(now)
    return hour_of(received_at) if received_at <= now + MAX_CLOCK_SKEW else hour_of(now)
