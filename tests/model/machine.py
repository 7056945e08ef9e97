"""The state machine of the model test: publishers, Pub/Sub, processes that are killed, and time."""

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
from tests.model.observed_state import ObservedState, Snapshot
from tests.model.oracle import BROKEN, GOOD, LARGE, OTHER, Event, Oracle, Sent
from tests.model.process import KillableDirectory, Killed, Message, Process

EVENT_TYPES = ("first", "second")
STREAMS = (*EVENT_TYPES, DEAD_LETTERS)
BEGIN = datetime(2026, 1, 31, 9, 50, tzinfo=UTC)
MOST_WRITES = 60
"""More writes than most runs make."""

ORDERS = st.randoms(use_true_random=False)
PARTS = st.sampled_from([0.5, 1.0, 1.0])
PAYLOADS = st.sampled_from([GOOD, GOOD, GOOD, OTHER, LARGE, BROKEN])


class Delivery(RuleBasedStateMachine):
    """Events and failures that deliver meets. The promises are the invariants; `tests.model.oracle` defines them."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        (self.folder / "storage").mkdir()
        os.symlink("storage", self.folder / "same")
        self.store = KillableDirectory(self.folder / "storage")
        self.other_store = KillableDirectory(self.folder / "same")
        """The same folder under another path, as another process sees it."""
        self.tables = DuckDBFile(self.folder / "tables.duckdb")
        self.observed = ObservedState(self.store, self.tables)
        self.oracle, self.now, self.numbers = Oracle(), BEGIN, count()
        self.messages: dict[str, Message] = {}
        self.waiting: dict[str, Message] = {}
        self.snapshot = Snapshot({}, {})
        self.settled = self.crashed = False
        self.write_contracts(1, "int")

    def teardown(self) -> None:
        self.tables.close()
        shutil.rmtree(self.folder)

    def write_contracts(self, version: int, type_: str) -> None:
        for event_type in EVENT_TYPES:
            path = self.folder / "contracts" / event_type / f"v{version}.avsc"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"type": "record", "name": event_type, "fields": [{"name": "x", "type": type_}]}))
        self.contracts = load_contracts(self.folder / "contracts")
        self.start(1)
        self.start_other()

    def send(self, event: Event, payload: bytes, edge: datetime | None, more: dict[str, str], sent: Sent | None = None) -> str:
        """Send one message and return its id.

        Args:
            edge: the stamp of the edge server that received the event, if any
            more: further attributes
            sent: the oracle's record, if it differs from that of an ordinary client's message
        """
        name = f"m{next(self.numbers)}"
        stamp = {} if edge is None else {"received_at": edge.isoformat()}
        attributes = {"event_type": event.event_type, "event_id": event.event_id, **stamp, **more}
        self.oracle.sent[name] = sent or Sent(event, payload, edge or self.now, self.now, name)
        self.messages[name] = self.waiting[name] = Message(payload, attributes, name, self.now)
        self.settled = False
        return name

    @rule(
        event_type=st.sampled_from(EVENT_TYPES),
        event_id=st.sampled_from("abcd"),
        payload=PAYLOADS,
        minutes=st.sampled_from([None, 0, 5, 30]),
    )
    def publish(self, event_type: str, event_id: str, payload: bytes, minutes: int | None) -> None:
        """Publish a new event, or another payload under its id, with or without an earlier stamp of an edge server."""
        edge = None if minutes is None else self.now - timedelta(minutes=minutes)
        self.send(Event(event_type, event_id), payload, edge, {})

    @rule(
        event_type=st.sampled_from(EVENT_TYPES),
        event_id=st.sampled_from("abcd"),
        payload=PAYLOADS,
        minutes=st.sampled_from([70, 130, 200, 400]),
    )
    def late_arrival(self, event_type: str, event_id: str, payload: bytes, minutes: int) -> None:
        """Publish an event of an hour that is over, or of one so long ago that it is skewed."""
        self.send(Event(event_type, event_id), payload, self.now - timedelta(minutes=minutes), {})

    @precondition(lambda self: self.messages)
    @rule(choice=ORDERS)
    def retry(self, choice: random.Random) -> None:
        """A client without an acknowledgement sends the same event again, in a new message."""
        name = choice.choice(sorted(self.messages))
        if "replay_of" not in (attributes := self.messages[name].attributes):
            stamp = attributes.get("received_at")
            edge = datetime.fromisoformat(stamp) if stamp else None
            self.send(self.oracle.sent[name].event, self.messages[name].data, edge, {})

    @precondition(lambda self: self.messages)
    @rule(choice=ORDERS)
    def redeliver(self, choice: random.Random) -> None:
        """Pub/Sub redelivers a message that was acknowledged."""
        name = choice.choice(sorted(self.messages))
        self.waiting[name] = self.messages[name]
        self.settled = False

    @rule(minutes=st.sampled_from([1, 10, 60, 150]))
    def time_passes(self, minutes: int) -> None:
        self.now += timedelta(minutes=minutes)

    @rule(shards=st.sampled_from([1, 1, 2]))
    def start(self, shards: int) -> None:
        """Restart the process: it loses its memory."""
        self.process = Process(self.store, self.tables, self.contracts, shards)

    def start_other(self) -> None:
        """Start a second process, which keeps its memory until it is started again."""
        self.other = Process(self.other_store, self.tables, self.contracts, 1)

    @rule(order=ORDERS, part=PARTS)
    def run(self, order: random.Random, part: float) -> None:
        """Deliver all or some of the waiting messages, in any order. The stream goes on, so nothing closes."""
        self.complete_run(self.choose_waiting(order, part), lambda messages: self.process.run(messages, self.now, last=False))

    @rule(order=ORDERS)
    def drain(self, order: random.Random) -> None:
        """Deliver all waiting messages and end in mid-hour, as a drained job does.

        Buckets whose hour is over close. The next run goes on with the others.
        """
        self.complete_run(self.choose_waiting(order, 1.0), lambda messages: self.process.run(messages, self.now))
        assert {bucket for bucket, manifest in self.snapshot.manifests.items() if not manifest.closed} == {
            bucket for bucket in self.snapshot.manifests if bucket.end > self.now
        }

    @precondition(lambda self: self.waiting)
    @rule(order=ORDERS, write_number=st.integers(1, MOST_WRITES), after=st.booleans())
    def crash(self, order: random.Random, write_number: int, after: bool) -> None:
        """Kill a run at one of its writes, then start a new process. Unacknowledged messages are redelivered."""
        self.run_until_killed(
            self.store,
            write_number,
            after,
            lambda: self.acknowledge(self.process.run(self.choose_waiting(order, 1.0), self.now)),
        )
        self.settled, self.crashed = False, True
        self.start(1)
        self.observe()

    @precondition(lambda self: self.waiting)
    @rule(order=ORDERS, part=PARTS, other_part=PARTS, committed=st.booleans())
    def overlapping_processes(self, order: random.Random, part: float, other_part: float, committed: bool) -> None:
        """Two processes handle some of the same messages at the same time.

        One process has staged its files, or has committed and not yet loaded them, while the other one delivers all the way.
        """
        mine, others = self.choose_waiting(order, part), self.choose_waiting(order, other_part)
        staged = self.process.write(mine)
        if not committed:
            self.oracle.note_concurrent(message.message_id for message in [*mine, *others])
        manifests, durable = self.process.commit(staged, self.now) if committed else ([], [])
        durable += self.other.run(others, self.now)
        if not committed:
            manifests, more_durable = self.process.commit(staged, self.now)
            durable += more_durable
        self.process.load(manifests)
        self.complete_run([*mine, *others], lambda _: durable)

    def choose_waiting(self, order: random.Random, part: float) -> list[Message]:
        """Return this part of the waiting messages in random order."""
        waiting = [self.waiting[name] for name in sorted(self.waiting)]
        order.shuffle(waiting)
        return waiting[: round(part * len(waiting))]

    def complete_run(self, messages: list[Message], run: Callable[[list[Message]], Iterable[str]]) -> None:
        """Run to the end, acknowledge, and check that no message is left and that tables equal files."""
        self.acknowledge(run(messages))
        assert not {message.message_id for message in messages} & self.waiting.keys(), "a completed run has left messages"
        self.settled = not self.waiting
        self.observe()
        self.check_tables()

    def acknowledge(self, names: Iterable[str]) -> None:
        for name in names:
            self.waiting.pop(name, None)

    def run_until_killed(
        self, store: KillableDirectory, write_number: int | None, after: bool, run: Callable[[], None]
    ) -> None:
        """Run until the n-th write kills the process, before or after it takes effect. None: to the end."""
        store.writes_left, store.after = write_number, after
        try:
            run()
        except Killed:
            pass
        finally:
            store.writes_left = None

    def observe(self, *, deleted: datetime | None = None) -> None:
        """Take a new snapshot and check that no bucket has lost anything.

        Args:
            deleted: an hour that was deleted since the last snapshot
        """
        snapshot = self.observed.snapshot()
        snapshot.check_grown(self.snapshot if deleted is None else self.snapshot.without(deleted))
        self.snapshot = snapshot

    def check_tables(self) -> None:
        in_files = {bucket: sorted(row.identity for row in rows) for bucket, rows in self.snapshot.rows.items() if rows}
        assert self.observed.in_tables(STREAMS) == in_files

    @invariant()
    def counters_balance(self) -> None:
        """Counters balance, and no bucket closes before its hour is over."""
        self.snapshot.check_counters(self.now)

    @invariant()
    def outcomes_are_exactly_one(self) -> None:
        """Every message has exactly one outcome, and no id is delivered twice within the horizon."""
        self.oracle.check(self.snapshot.events, self.snapshot.dead_letters, settled=self.settled)
