"""Whatever happens in whatever order, the promises hold: deliver against a model that is a set of messages."""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import combinations, count
from pathlib import Path
from typing import Any

import duckdb
import fastavro
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from schemas.buckets import DEAD_LETTERS, HOUR
from schemas.contracts import load_contracts
from schemas.outcomes import Exit
from schemas.receipts import Receipt
from tests.model.process import HORIZON, LATENESS, Message, Process, Stopped, Stopping
from transforms.tables.duckdb_file import DuckDBFile

pytestmark = pytest.mark.slow

KINDS = ("first", "second")
BEGIN = datetime(2026, 1, 31, 9, 50, tzinfo=UTC)
MOST_WRITES = 60
"""More than most runs make."""


@dataclass(frozen=True)
class Said:
    """What a message says. payload: None where it breaks its contract."""

    kind: str
    event_id: str
    payload: int | None
    received_at: datetime


class Delivery(RuleBasedStateMachine):
    """Publishers, Pub/Sub, processes that stop, and time."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        for kind in KINDS:
            path = self.folder / "contracts" / kind / "v1.avsc"
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps({"type": "record", "name": kind, "fields": [{"name": "x", "type": "long"}]}))
        self.contracts = load_contracts(self.folder / "contracts")
        self.buckets = Stopping(self.folder / "buckets")
        self.tables = DuckDBFile(self.folder / "tables.duckdb")
        self.now, self.numbers = BEGIN, count()
        self.said: dict[str, Said] = {}
        self.messages: dict[str, Message] = {}
        self.waiting: dict[str, Message] = {}
        self.settled = self.touched = False
        self.start(1)

    def teardown(self) -> None:
        self.tables.close()
        shutil.rmtree(self.folder)

    @rule(
        kind=st.sampled_from(KINDS),
        event_id=st.sampled_from("abcd"),
        payload=st.sampled_from([1, 1, 1, 2, None]),
        minutes=st.sampled_from([None, 0, 5, 30, 70, 130, 200, 400]),
    )
    def publish(self, kind: str, event_id: str, payload: int | None, minutes: int | None) -> None:
        """A new event, one that is sent again, one whose payload is another; received so long before, by an edge's stamp."""
        edge = self.now - timedelta(minutes=minutes or 0)
        name, is_skewed = f"m{next(self.numbers)}", self.now - (edge.replace(minute=0) + HOUR) > LATENESS
        attributes = {"event_type": kind, "event_id": event_id}
        if minutes is not None:
            attributes["received_at"] = edge.isoformat()
        data = b"broken" if payload is None else b'{"x": %d}' % payload
        # What is broken may be so before its time is looked at; it is kept in the hour of either.
        self.said[name] = Said(kind, event_id, payload, self.now if is_skewed else edge)
        self.messages[name] = self.waiting[name] = Message(data, attributes, name, self.now)
        self.settled = False

    @precondition(lambda self: self.messages)
    @rule(choice=st.randoms(use_true_random=False))
    def redeliver(self, choice: random.Random) -> None:
        """Pub/Sub gives again what was acknowledged."""
        name = choice.choice(sorted(self.messages))
        self.waiting[name] = self.messages[name]
        self.settled = False

    @rule(minutes=st.sampled_from([1, 10, 60, 150]))
    def time_passes(self, minutes: int) -> None:
        self.now += timedelta(minutes=minutes)
        self.settled = False

    @rule(shards=st.sampled_from([1, 1, 2]))
    def start(self, shards: int) -> None:
        """A process that remembers nothing."""
        self.process = Process(self.buckets, self.tables, self.contracts, shards)

    @rule(order=st.randoms(use_true_random=False), part=st.sampled_from([0.5, 1.0, 1.0]))
    def run(self, order: random.Random, part: float) -> None:
        """Takes what waits, or a part of it, in any order, and ends as a drain does: as if nothing more were to come."""
        taken = self._taken(order, part)
        for name in self.process.run(taken, self.now):
            self.waiting.pop(name, None)
        assert not {message.message_id for message in taken} & self.waiting.keys(), "a run that ended well has left messages"
        self.settled, self.touched = not self.waiting, True
        self._check_tables()

    @precondition(lambda self: self.waiting)
    @rule(order=st.randoms(use_true_random=False), at=st.integers(1, MOST_WRITES), after=st.booleans())
    def crash(self, order: random.Random, at: int, after: bool) -> None:
        """A run that is stopped at some write, and the process that comes after. What was not acknowledged comes again."""
        self.buckets.left, self.buckets.after = at, after
        try:
            for name in self.process.run(self._taken(order, 1.0), self.now):
                self.waiting.pop(name, None)
        except Stopped:
            pass
        finally:
            self.buckets.left = None
        self.settled, self.touched = False, True
        self.start(1)

    def _taken(self, order: random.Random, part: float) -> list[Message]:
        waiting = [self.waiting[name] for name in sorted(self.waiting)]
        order.shuffle(waiting)
        return waiting[: round(part * len(waiting))]

    @invariant()
    def an_id_is_there_once_within_the_horizon(self) -> None:
        if self.touched:
            for kind in KINDS:
                by_id: dict[str, list[datetime]] = {}
                for row in self._rows(kind):
                    by_id.setdefault(row["event_id"], []).append(row["received_at"])
                for event_id, times in by_id.items():
                    assert all(abs(one - other) >= HORIZON for one, other in combinations(times, 2)), (kind, event_id, times)

    @invariant()
    def books_balance_and_nothing_closes_before_its_hour_is_over(self) -> None:
        if self.touched:
            for receipt in self._receipts():
                for ways in receipt.books.values():
                    parts = [tally for way, tally in ways.items() if way != Exit.RECEIVED]
                    assert ways[Exit.RECEIVED] == sum(parts[1:], parts[0]), receipt
                assert not receipt.closed or receipt.bucket.end <= self.now

    @invariant()
    def every_message_is_in_exactly_one_exit(self) -> None:
        """Once all were taken; before that, in one at most."""
        if not self.touched:
            return
        rows = {kind: self._rows(kind) for kind in KINDS}
        delivered = [row["message_id"] for kind in KINDS for row in rows[kind]]
        letters = [row["message_id"] for row in self._rows(DEAD_LETTERS)]
        exits = Counter([*delivered, *letters])
        assert all(times == 1 for times in exits.values()), exits
        for name in self.said if self.settled else exits:
            said = self.said[name]
            near = [
                self.said[row["message_id"]].payload
                for row in rows[said.kind]
                if row["event_id"] == said.event_id and abs(row["received_at"] - said.received_at) < HORIZON
            ]
            if said.payload is None:
                assert name in letters, said
            elif name in letters:
                assert any(payload != said.payload for payload in near), f"{said} is refused without a conflict"
            elif name not in delivered:
                assert said.payload in near, f"{said} is in no exit"

    def _check_tables(self) -> None:
        with duckdb.connect(self.tables.path) as db:
            for stream in (*KINDS, DEAD_LETTERS):
                in_table = db.execute(f"SELECT message_id FROM {stream} ORDER BY 1").fetchall()
                assert [one for (one,) in in_table] == sorted(row["message_id"] for row in self._rows(stream)), stream

    def _receipts(self) -> list[Receipt]:
        names = [name for name in self.buckets.list("") if name.endswith("/_RECEIPT.json")]
        return [Receipt.from_json(self.buckets.read(name)[0], name) for name in names]

    def _rows(self, stream: str) -> list[Any]:
        found: list[Any] = []
        for receipt in self._receipts():
            if receipt.bucket.stream == stream:
                for part in receipt.parts:
                    with self.buckets.open(f"{receipt.bucket.folder}/{part.name}") as file:
                        found += fastavro.reader(file)
        return found


@pytest.fixture(autouse=True)
def fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process leaves that is killed does not depend on the disk's caches."""
    for name in ("flush", "flush_folder"):
        monkeypatch.setattr(f"transforms.buckets.directory.{name}", lambda _: None)


def test_promises_hold_in_whatever_order_things_happen() -> None:
    run_state_machine_as_test(
        Delivery,
        settings=settings(max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)),
    )
