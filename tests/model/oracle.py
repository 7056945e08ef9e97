"""The model: published messages and stored rows as sets, and the promises as relations between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from itertools import combinations
from typing import NamedTuple

from schemas.audit_reports import PublishedReport
from schemas.buckets import HOUR, hour_of
from schemas.fingerprints import Tally
from tests.model.process import HORIZON, LATENESS

GOOD, OTHER = b'{"x": 1}', b'{"x": 2}'
BROKEN = b"broken"
LARGE = b'{"x": 3000000000}'
"""Out of range for version 1 of its contract, valid for version 2."""


class Event(NamedTuple):
    """An event's identity."""

    event_type: str
    event_id: str


@dataclass(frozen=True)
class Sent:
    """A message as it was sent."""

    event: Event
    payload: bytes
    claimed: datetime
    """Time of receipt that the client claims."""
    published_at: datetime
    identity: str
    """Message id under which it is stored: its own, or that of the dead letter that it replays."""
    is_replay: bool = False

    @property
    def received_at(self) -> datetime:
        """The time that decides the hour: as claimed, or the publish time if the message is skewed."""
        is_skewed = self.published_at - (hour_of(self.claimed) + HOUR) > LATENESS
        return self.published_at if is_skewed else self.claimed


class Row(NamedTuple):
    """A row of an event's bucket or of the dead letters."""

    event: Event
    identity: str
    received_at: datetime


@dataclass
class Oracle:
    """All messages that were sent, and checks of the promises against stored rows."""

    sent: dict[str, Sent] = field(default_factory=dict)
    """Every message by its id."""
    contract_fixed: bool = False
    """Whether LARGE is valid by now."""
    ambiguous: set[Event] = field(default_factory=set)
    """Events with several messages in an hour that was rebuilt.

    Any of these messages may have become the row, up to an hour away from the messages that were dropped as its duplicates.
    """

    raced: set[Event] = field(default_factory=set)
    """Events of which two processes had different payloads at the same time.

    The process that commits second has compared its messages with each other first. It may have refused one whose payload the
    other process delivers, so one message can be a row and a dead letter (docs/guarantees.md, "Conflicts").
    """

    def check(self, rows: Collection[Row], dead_letters: Collection[Row], *, settled: bool) -> None:
        """Check the promises.

        Args:
            settled: whether every message was delivered; before that, some may have no outcome yet
        """
        self._check_uniqueness(rows, dead_letters)
        by_identity: dict[str, list[Sent]] = {}
        for sent in self.sent.values():
            by_identity.setdefault(sent.identity, []).append(sent)
        by_event: dict[Event, list[tuple[datetime, set[bytes]]]] = {}
        for row in rows:
            payloads = {sent.payload for sent in by_identity[row.identity] if sent.received_at == row.received_at}
            assert payloads - {BROKEN}, f"{row} is surplus"
            assert self.contract_fixed or payloads - {LARGE}, f"{row} breaks its contract"
            by_event.setdefault(row.event, []).append((row.received_at, payloads))
        for dead_letter in dead_letters:
            candidates = [sent for sent in by_identity[dead_letter.identity] if sent.received_at == dead_letter.received_at]
            assert candidates, f"{dead_letter} is surplus"
            assert any(self._may_be_refused(sent, by_event) for sent in candidates), (
                f"{dead_letter} is a dead letter without a reason"
            )
        if settled:
            stored_dead_letters = {(dead_letter.identity, hour_of(dead_letter.received_at)) for dead_letter in dead_letters}
            refused = {
                self._content(sent)
                for sent in self.sent.values()
                if (sent.identity, hour_of(sent.received_at)) in stored_dead_letters
            }
            for sent in self.sent.values():
                is_dead_letter = (sent.identity, hour_of(sent.received_at)) in stored_dead_letters
                # Of equal messages that arrive together, one becomes the dead letter and the others its duplicates.
                is_duplicate = sent.payload != BROKEN and self._content(sent) in refused
                assert is_dead_letter or is_duplicate or self._is_delivered(sent, by_event), f"{sent} has no outcome"

    def _content(self, sent: Sent) -> tuple[Event, bytes, datetime]:
        return sent.event, sent.payload, hour_of(sent.received_at)

    def _check_uniqueness(self, rows: Collection[Row], dead_letters: Collection[Row]) -> None:
        times: dict[Event, list[datetime]] = {}
        for row in rows:
            times.setdefault(row.event, []).append(row.received_at)
        for event, received in times.items():
            assert all(abs(first - second) >= HORIZON for first, second in combinations(received, 2)), (event, received)
        # A dead letter that is refused again after the allowed lateness is stored again, once: in the hour of the replay.
        copies = Counter((dead_letter.identity, hour_of(dead_letter.received_at)) for dead_letter in dead_letters)
        assert set(copies.values()) <= {1}, copies
        refused = {(dead_letter.identity, dead_letter.received_at) for dead_letter in dead_letters}
        both = [
            row for row in rows if (row.identity, row.received_at) in refused and row.event not in self.ambiguous | self.raced
        ]
        now_valid = {sent.identity for sent in self.sent.values() if sent.payload == LARGE and self.contract_fixed}
        assert {row.identity for row in both} <= now_valid, f"{both} are dead letters too"

    def _payloads_nearby(self, sent: Sent, by_event: dict[Event, list[tuple[datetime, set[bytes]]]]) -> Iterator[set[bytes]]:
        """Yield the payloads of the event's rows within the horizon."""
        reach = HORIZON + HOUR if sent.event in self.ambiguous else HORIZON
        for received_at, payloads in by_event.get(sent.event, ()):
            if abs(received_at - sent.received_at) < reach:
                yield payloads

    def _may_be_refused(self, sent: Sent, by_event: dict[Event, list[tuple[datetime, set[bytes]]]]) -> bool:
        near = list(self._payloads_nearby(sent, by_event))
        conflicts = any(payloads != {sent.payload} for payloads in near) or (sent.event in self.ambiguous and near)
        return sent.payload in (BROKEN, LARGE) or bool(conflicts) or sent.event in self.raced

    def _is_delivered(self, sent: Sent, by_event: dict[Event, list[tuple[datetime, set[bytes]]]]) -> bool:
        """Return whether it is a row, or a duplicate of one."""
        if sent.payload == BROKEN:
            return False
        return any(
            sent.payload in payloads or sent.event in self.ambiguous for payloads in self._payloads_nearby(sent, by_event)
        )

    def note_concurrent(self, message_ids: Iterable[str]) -> None:
        """Record that two processes handle these messages at the same time."""
        payloads: dict[Event, set[bytes]] = {}
        for message_id in message_ids:
            sent = self.sent[message_id]
            payloads.setdefault(sent.event, set()).add(sent.payload)
        self.raced |= {event for event, different in payloads.items() if len(different) > 1}

    def note_rebuilt(self, hour: datetime) -> None:
        """Record that the hour was deleted, and delivered again from all published messages."""
        events = Counter(sent.event for sent in self.sent.values() if hour_of(sent.received_at) == hour)
        self.ambiguous |= {event for event, times in events.items() if times > 1}

    def published_for(self, event_type: str, hour: datetime) -> list[str]:
        """Return the event ids that clients published for the hour. Replays do not count."""
        return [
            sent.event.event_id
            for sent in self.sent.values()
            if sent.event.event_type == event_type and hour_of(sent.claimed) == hour and not sent.is_replay
        ]

    def shares_a_row(self, event_type: str, hour: datetime) -> bool:
        """Return whether a row counts for two hours, one of them this one.

        An event of the hour was skewed, and an event with the same id was published for the hour where it was delivered. The
        one row of both can count for one of the hours only.
        """
        skewed = [
            sent for sent in self.sent.values() if sent.event.event_type == event_type and sent.claimed != sent.received_at
        ]
        return any(
            hour in (hour_of(message.claimed), hour_of(other.claimed))
            for message in skewed
            for other in self.sent.values()
            if message.event == other.event
            and hour_of(message.received_at) == hour_of(other.received_at)
            and hour_of(message.claimed) != hour_of(other.claimed)
        )


def report_of(event_type: str, hour: datetime, ids: Iterable[str]) -> PublishedReport:
    """Build the report of the only publisher on an hour."""
    published = list(ids)
    return PublishedReport(
        f"{event_type}-{hour:%Y%m%d%H}",
        "publisher",
        event_type,
        hour,
        messages=Tally.of_ids(published),
        distinct=Tally.of_ids(set(published)),
    )
