"""The machine: publishers, Pub/Sub, processes that stop, and time."""

from __future__ import annotations

import json
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from schemas.buckets import DEAD_LETTERS
from schemas.registry.contracts import load_contracts
from storage.tables.duckdb_file import DuckDBFile
from tests.model.observed_state import Held, ObservedState
from tests.model.oracle import BROKEN, GOOD, LARGE, OTHER, Event, Said, Sets
from tests.model.process import Message, Process, Stopped, Stopping

KINDS = ("first", "second")
STREAMS = (*KINDS, DEAD_LETTERS)
BEGIN = datetime(2026, 1, 31, 9, 50, tzinfo=UTC)
MOST_WRITES = 60
"""More than most runs make."""

ORDERS = st.randoms(use_true_random=False)
PARTS = st.sampled_from([0.5, 1.0, 1.0])
PAYLOADS = st.sampled_from([GOOD, GOOD, GOOD, OTHER, LARGE, BROKEN])


class Delivery(RuleBasedStateMachine):
    """What happens to deliver. The promises are the invariants; `tests.model.oracle` says what they are."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        (self.folder / "storage").mkdir()
        os.symlink("storage", self.folder / "same")
        self.store = Stopping(self.folder / "storage")
        self.same = Stopping(self.folder / "same")
        """The same folder for another process."""
        self.tables = DuckDBFile(self.folder / "tables.duckdb")
        self.observed = ObservedState(self.store, self.tables)
        self.sets, self.now, self.numbers = Sets(), BEGIN, count()
        self.messages: dict[str, Message] = {}
        self.waiting: dict[str, Message] = {}
        self.held = Held({}, {})
        self.settled = self.crashed = False
        self.write_contracts(1, "int")

    def teardown(self) -> None:
        self.tables.close()
        shutil.rmtree(self.folder)

    def write_contracts(self, version: int, type_: str) -> None:
        for kind in KINDS:
            path = self.folder / "contracts" / kind / f"v{version}.avsc"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"type": "record", "name": kind, "fields": [{"name": "x", "type": type_}]}))
        self.contracts = load_contracts(self.folder / "contracts")
        self.start(1)
        self.start_other()

    def put(self, event: Event, payload: bytes, edge: datetime | None, more: dict[str, str], said: Said | None = None) -> str:
        """One message of whoever. edge: the stamp that it carries."""
        name = f"m{next(self.numbers)}"
        stamp = {} if edge is None else {"received_at": edge.isoformat()}
        attributes = {"event_type": event.kind, "event_id": event.event_id, **stamp, **more}
        self.sets.said[name] = said or Said(event, payload, edge or self.now, self.now, name)
        self.messages[name] = self.waiting[name] = Message(payload, attributes, name, self.now)
        self.settled = False
        return name

    @rule(
        kind=st.sampled_from(KINDS),
        event_id=st.sampled_from("abcd"),
        payload=PAYLOADS,
        minutes=st.sampled_from([None, 0, 5, 30]),
    )
    def publish(self, kind: str, event_id: str, payload: bytes, minutes: int | None) -> None:
        """A new event, or another payload under its id; with the stamp of an edge that received it before, or without."""
        edge = None if minutes is None else self.now - timedelta(minutes=minutes)
        self.put(Event(kind, event_id), payload, edge, {})

    @rule(
        kind=st.sampled_from(KINDS),
        event_id=st.sampled_from("abcd"),
        payload=PAYLOADS,
        minutes=st.sampled_from([70, 130, 200, 400]),
    )
    def late_arrival(self, kind: str, event_id: str, payload: bytes, minutes: int) -> None:
        """An event of an hour that is over, or of one so long ago that it comes too late for it."""
        self.put(Event(kind, event_id), payload, self.now - timedelta(minutes=minutes), {})

    @precondition(lambda self: self.messages)
    @rule(choice=ORDERS)
    def retry(self, choice: random.Random) -> None:
        """A client that has had no answer sends the same once more, in a message of its own."""
        name = choice.choice(sorted(self.messages))
        if "replay_of" not in (attributes := self.messages[name].attributes):
            stamp = attributes.get("received_at")
            edge = datetime.fromisoformat(stamp) if stamp else None
            self.put(self.sets.said[name].event, self.messages[name].data, edge, {})

    @precondition(lambda self: self.messages)
    @rule(choice=ORDERS)
    def redeliver(self, choice: random.Random) -> None:
        """Pub/Sub gives again what was acknowledged."""
        name = choice.choice(sorted(self.messages))
        self.waiting[name] = self.messages[name]
        self.settled = False

    @rule(minutes=st.sampled_from([1, 10, 60, 150]))
    def time_passes(self, minutes: int) -> None:
        self.now += timedelta(minutes=minutes)

    @rule(shards=st.sampled_from([1, 1, 2]))
    def start(self, shards: int) -> None:
        """A restart: a process that remembers nothing."""
        self.process = Process(self.store, self.tables, self.contracts, shards)

    def start_other(self) -> None:
        """Another one beside it, which remembers what it has seen."""
        self.other = Process(self.same, self.tables, self.contracts, 1)

    @rule(order=ORDERS, part=PARTS)
    def run(self, order: random.Random, part: float) -> None:
        """Takes what waits, or a part of it, in any order, while the stream goes on: closes nothing."""
        self.take(self.taken(order, part), lambda taken: self.process.run(taken, self.now, last=False))

    @rule(order=ORDERS)
    def drain(self, order: random.Random) -> None:
        """Takes all that waits, and ends in mid-hour as if nothing more were to come. What closes is over; the next run goes on
        with the rest."""
        self.take(self.taken(order, 1.0), lambda taken: self.process.run(taken, self.now))
        assert {bucket for bucket, manifest in self.held.manifests.items() if not manifest.closed} == {
            bucket for bucket in self.held.manifests if bucket.end > self.now
        }

    @precondition(lambda self: self.waiting)
    @rule(order=ORDERS, at=st.integers(1, MOST_WRITES), after=st.booleans())
    def crash(self, order: random.Random, at: int, after: bool) -> None:
        """A run that is stopped at some write, and the process that comes after. What was not acknowledged comes again."""
        self.stopped(self.store, at, after, lambda: self.acknowledge(self.process.run(self.taken(order, 1.0), self.now)))
        self.settled, self.crashed = False, True
        self.start(1)
        self.look()

    @precondition(lambda self: self.waiting)
    @rule(order=ORDERS, part=PARTS, also=PARTS, committed=st.booleans())
    def two_at_once(self, order: random.Random, part: float, also: float, committed: bool) -> None:
        """A process has written its files, or has committed them and not loaded them yet, while another one takes some of the
        same messages all the way."""
        mine, others = self.taken(order, part), self.taken(order, also)
        written = self.process.write(mine)
        manifests, durable = self.process.commit(written, self.now) if committed else ([], [])
        durable += self.other.run(others, self.now)
        if not committed:
            manifests, durable_too = self.process.commit(written, self.now)
            durable += durable_too
        self.process.load(manifests)
        self.take([*mine, *others], lambda _: durable)

    def taken(self, order: random.Random, part: float) -> list[Message]:
        waiting = [self.waiting[name] for name in sorted(self.waiting)]
        order.shuffle(waiting)
        return waiting[: round(part * len(waiting))]

    def take(self, messages: list[Message], run: Callable[[list[Message]], Iterable[str]]) -> None:
        """A run that ends well."""
        self.acknowledge(run(messages))
        assert not {message.message_id for message in messages} & self.waiting.keys(), "a run that ended well has left messages"
        self.settled = not self.waiting
        self.look()
        self.check_tables()

    def acknowledge(self, names: Iterable[str]) -> None:
        for name in names:
            self.waiting.pop(name, None)

    def stopped(self, store: Stopping, at: int | None, after: bool, run: Callable[[], None]) -> None:
        store.left, store.after = at, after
        try:
            run()
        except Stopped:
            pass
        finally:
            store.left = None

    def look(self, *, deleted: datetime | None = None) -> None:
        """At what is there now. deleted: an hour that was taken away since the last look."""
        held = self.observed.held()
        held.check_grown(self.held if deleted is None else self.held.without(deleted))
        self.held = held

    def check_tables(self) -> None:
        in_files = {bucket: sorted(row.identity for row in rows) for bucket, rows in self.held.rows.items() if rows}
        assert self.observed.in_tables(STREAMS) == in_files

    @invariant()
    def counters_balance_and_nothing_closes_before_its_hour_is_over(self) -> None:
        self.held.check_counters(self.now)

    @invariant()
    def every_message_has_exactly_one_outcome_and_no_id_is_there_twice_within_the_horizon(self) -> None:
        self.sets.check(self.held.events, self.held.dead_letters, settled=self.settled)
