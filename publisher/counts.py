"""The publisher's own counters: how much of each event type and hour Pub/Sub has acknowledged, and which ids."""

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
    """One message that Pub/Sub has taken.

    event_type: as claimed, "" where there is none; event_id: the message id where there is none.
    """

    event_type: str
    hour: datetime
    event_id: str


@dataclass
class _Account:
    """One event type in one hour: what was counted since the last report, and every id hash ever seen."""

    messages: Tally = Tally()
    distinct: Tally = Tally()
    seen: set[bytes] = field(default_factory=set)
    due: bool = True


class Ledger:
    """Counts acknowledged messages per event type and hour, and turns the counts into reports.

    An id that comes again under the same type and hour counts in `messages` again, and never in `distinct`, also
    when the reports in between are long gone. That takes the hash of every id: about 100 bytes of memory for each
    distinct event, for as long as the ledger lives. Knows nothing of Pub/Sub. Not safe for use by several threads.
    """

    def __init__(self) -> None:
        self._accounts: dict[tuple[str, datetime], _Account] = defaultdict(_Account)
        self._sequence = 0

    def add(self, acknowledged: Iterable[Acknowledged]) -> None:
        """Counts messages. Cheapest with many at once."""
        batches: dict[tuple[str, datetime], list[bytes]] = defaultdict(list)
        for event_type, hour, event_id in acknowledged:
            batches[event_type, hour].append(id_hash(event_id))
        for key, hashes in batches.items():
            account = self._accounts[key]
            fresh = set(hashes) - account.seen
            account.seen |= fresh
            account.messages += Tally.of_hashes(b"".join(hashes))
            account.distinct += Tally.of_hashes(b"".join(fresh))
            account.due = True

    def expect(self, event_type: str, hour: datetime) -> None:
        """Makes the next reports tell of this type and hour, with a zero if nothing is published.

        Without it, an hour for which there is no report can't be told from an hour whose report was lost.
        """
        self._accounts[event_type, hour_of(hour)].due = True

    def reports(self, reporter: str) -> list[PublishedReport]:
        """What was counted or expected since the last call, one report for each type and hour, ordered by hour.

        The id is made of reporter, type, hour and the number of the call: a report that is sent twice says the
        same under the same id. `reporter` must differ between runs. Reports of one type and hour add up.
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
    """The hour that a message with these attributes, published now, is counted in.

    That is the hour of its stamp received_at; the present hour where there is none, or none that the receiver
    accepts: a stamp that can't be read, or that lies further ahead than MAX_CLOCK_SKEW.
    """
    text = attributes.get(RECEIVED_AT)
    if text is None:
        return hour_of(now)
    try:
        edge = parse_time(text)
    except (ValueError, OverflowError):
        return hour_of(now)
    return hour_of(edge) if edge <= now + MAX_CLOCK_SKEW else hour_of(now)
