"""The model: what was published and what is there, as sets, and the promises as what has to hold between them."""

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
"""Breaks the first version of its contract, and is good by the second."""


class Event(NamedTuple):
    kind: str
    event_id: str


@dataclass(frozen=True)
class Said:
    """What a message says. claimed: the time that it was published for; received_at: the one that decides its hour; identity:
    what it is known by, its own message id or that of the dead letter that it repeats."""

    event: Event
    payload: bytes
    claimed: datetime
    published_at: datetime
    identity: str
    is_replay: bool = False

    @property
    def received_at(self) -> datetime:
        is_late = self.published_at - (hour_of(self.claimed) + HOUR) > LATENESS
        return self.published_at if is_late else self.claimed


class Row(NamedTuple):
    """A row of an event's bucket, or of the dead letters'."""

    event: Event
    identity: str
    received_at: datetime


@dataclass
class Sets:
    """said: every message by its id; mended: whether LARGE is good by now; loose: events of which several messages lay in an
    hour that was rebuilt. There another of them may have become the row, up to an hour from what was dropped for its sake."""

    said: dict[str, Said] = field(default_factory=dict)
    mended: bool = False
    loose: set[Event] = field(default_factory=set)

    def check(self, rows: Collection[Row], dead_letters: Collection[Row], *, settled: bool) -> None:
        """The promises. settled: whether every message was taken; before that some may be nowhere."""
        self._nothing_is_twice(rows, dead_letters)
        by_identity: dict[str, list[Said]] = {}
        for said in self.said.values():
            by_identity.setdefault(said.identity, []).append(said)
        by_event: dict[Event, list[tuple[datetime, set[bytes]]]] = {}
        for row in rows:
            payloads = {said.payload for said in by_identity[row.identity] if said.received_at == row.received_at}
            assert payloads - {BROKEN}, f"{row} is surplus"
            assert self.mended or payloads - {LARGE}, f"{row} breaks its contract"
            by_event.setdefault(row.event, []).append((row.received_at, payloads))
        for dead_letter in dead_letters:
            mine = [said for said in by_identity[dead_letter.identity] if said.received_at == dead_letter.received_at]
            assert mine, f"{dead_letter} is surplus"
            assert any(self._may_be_refused(said, by_event) for said in mine), f"{dead_letter} is refused without a conflict"
        if settled:
            there = {(dead_letter.identity, hour_of(dead_letter.received_at)) for dead_letter in dead_letters}
            refused = {self._saying(said) for said in self.said.values() if (said.identity, hour_of(said.received_at)) in there}
            for said in self.said.values():
                is_dead_letter = (said.identity, hour_of(said.received_at)) in there
                # Of those that come at once and say the same, one is refused for its payload, the others are its duplicates.
                is_again = said.payload != BROKEN and self._saying(said) in refused
                assert is_dead_letter or is_again or self._is_delivered(said, by_event), f"{said} has no outcome"

    def _saying(self, said: Said) -> tuple[Event, bytes, datetime]:
        return said.event, said.payload, hour_of(said.received_at)

    def _nothing_is_twice(self, rows: Collection[Row], dead_letters: Collection[Row]) -> None:
        times: dict[Event, list[datetime]] = {}
        for row in rows:
            times.setdefault(row.event, []).append(row.received_at)
        for event, all_ in times.items():
            assert all(abs(one - other) >= HORIZON for one, other in combinations(all_, 2)), (event, all_)
        # Refused again after the allowed lateness, a dead letter is there once more: in the hour of the replay, once.
        each = Counter((dead_letter.identity, hour_of(dead_letter.received_at)) for dead_letter in dead_letters)
        assert set(each.values()) <= {1}, each
        refused = {(dead_letter.identity, dead_letter.received_at) for dead_letter in dead_letters}
        both = [row for row in rows if (row.identity, row.received_at) in refused and row.event not in self.loose]
        mended = {said.identity for said in self.said.values() if said.payload == LARGE and self.mended}
        assert {row.identity for row in both} <= mended, f"{both} are refused too"

    def _near(self, said: Said, by_event: dict[Event, list[tuple[datetime, set[bytes]]]]) -> Iterator[set[bytes]]:
        reach = HORIZON + HOUR if said.event in self.loose else HORIZON
        for received_at, payloads in by_event.get(said.event, ()):
            if abs(received_at - said.received_at) < reach:
                yield payloads

    def _may_be_refused(self, said: Said, by_event: dict[Event, list[tuple[datetime, set[bytes]]]]) -> bool:
        near = list(self._near(said, by_event))
        conflicts = any(payloads != {said.payload} for payloads in near) or (said.event in self.loose and near)
        return said.payload in (BROKEN, LARGE) or bool(conflicts)

    def _is_delivered(self, said: Said, by_event: dict[Event, list[tuple[datetime, set[bytes]]]]) -> bool:
        """Whether it is a row, or a duplicate of one."""
        if said.payload == BROKEN:
            return False
        return any(said.payload in payloads or said.event in self.loose for payloads in self._near(said, by_event))

    def rebuilt(self, hour: datetime) -> None:
        """The hour was deleted, and delivered anew from all that was published."""
        events = Counter(said.event for said in self.said.values() if hour_of(said.received_at) == hour)
        self.loose |= {event for event, times in events.items() if times > 1}

    def published_for(self, kind: str, hour: datetime) -> list[str]:
        """The event ids of what clients published for the hour; a replay is none of theirs."""
        return [
            said.event.event_id
            for said in self.said.values()
            if said.event.kind == kind and hour_of(said.claimed) == hour and not said.is_replay
        ]

    def meets_itself(self, kind: str, hour: datetime) -> bool:
        """Whether an id of the hour came too late for one hour, and is the same event as one published for the hour where it
        lies: the one row of both counts for one of the hours only."""
        late = [said for said in self.said.values() if said.event.kind == kind and said.claimed != said.received_at]
        return any(
            hour in (hour_of(one.claimed), hour_of(other.claimed))
            for one in late
            for other in self.said.values()
            if one.event == other.event
            and hour_of(one.received_at) == hour_of(other.received_at)
            and hour_of(one.claimed) != hour_of(other.claimed)
        )


def report_of(kind: str, hour: datetime, ids: Iterable[str]) -> PublishedReport:
    """What the one publisher there is says of an hour."""
    each = list(ids)
    return PublishedReport(
        f"{kind}-{hour:%Y%m%d%H}", "publisher", kind, hour, messages=Tally.of_ids(each), distinct=Tally.of_ids(set(each))
    )
