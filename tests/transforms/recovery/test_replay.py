"""Replay without a runner: a message that is refused again is the same dead letter, for whatever reason."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from schemas.buckets import DEAD_LETTERS, HOUR, Bucket
from schemas.outcomes import Reason
from schemas.registry.contracts import Contracts, load_contracts
from storage.objects.base import Stored
from storage.tables.duckdb_file import DuckDBFile
from tests.model.observed_state import ObservedState
from tests.model.oracle import Row
from tests.model.process import LATENESS, KillableDirectory, Message, Process
from transforms.recovery.dead_letters import DeadLetter
from transforms.recovery.replay import Replay

NINE = datetime(2026, 1, 31, 9, 50, tzinfo=UTC)
TEN = NINE + timedelta(minutes=20)


@pytest.fixture
def tables(tmp_path: Path) -> Iterator[DuckDBFile]:
    tables = DuckDBFile(tmp_path / "tables.duckdb")
    yield tables
    tables.close()


def contracts(folder: Path, *types: str) -> Contracts:
    """Write one version of the type `thing` for each of these types of its only field, and load them."""
    for version, type_ in enumerate(types, 1):
        path = folder / "contracts" / "thing" / f"v{version}.avsc"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"type": "record", "name": "thing", "fields": [{"name": "x", "type": type_}]}))
    return load_contracts(folder / "contracts")


def thing(name: str, x: int, moment: datetime) -> Message:
    return Message(b'{"x": %d}' % x, {"event_type": "thing", "event_id": "a"}, name, moment)


def again(name: str, dead_letter: DeadLetter) -> Message:
    return Message(dead_letter.data, dict(dead_letter.attributes), name, TEN)


def dead_letters(store: KillableDirectory) -> list[DeadLetter]:
    return list(Replay(store, frozenset(Reason), TEN, LATENESS).due(Bucket(DEAD_LETTERS, TEN.replace(minute=0))))


def identities(rows: list[Row]) -> list[str]:
    return [row.identity for row in rows]


@pytest.mark.parametrize("x", [2, 3_000_000_000], ids=["refused for its payload", "refused by its contract at first"])
def test_replay__refused_again(tmp_path: Path, tables: DuckDBFile, x: int) -> None:
    """A message that conflicts with another hour's event stays one dead letter, however often it is replayed."""
    store = KillableDirectory(tmp_path / "storage")
    process = Process(store, tables, contracts(tmp_path, "int"), 1)
    process.run([thing("first", 1, NINE), thing("second", x, TEN)], TEN)
    snapshot = ObservedState(store, tables).snapshot()
    assert (identities(snapshot.events), identities(snapshot.dead_letters)) == (["first"], ["second"])
    # Both numbers are valid for version 2, but the id is delivered already, with another payload.
    fixed_process = Process(store, tables, contracts(tmp_path, "int", "long"), 1)
    for number in range(2):
        [dead_letter] = dead_letters(store)
        fixed_process.run([again(f"replay-{number}", dead_letter)], TEN + HOUR)
    snapshot = ObservedState(store, tables).snapshot()
    assert (identities(snapshot.events), identities(snapshot.dead_letters)) == (["first"], ["second"])


def test_replay__keeps_the_message_id(tmp_path: Path, tables: DuckDBFile) -> None:
    """A replayed event is stored under the message id of its dead letter."""
    store = KillableDirectory(tmp_path / "storage")
    Process(store, tables, contracts(tmp_path, "int"), 1).run([thing("first", 3_000_000_000, TEN)], TEN)
    [dead_letter] = dead_letters(store)
    durable = Process(store, tables, contracts(tmp_path, "int", "long"), 1).run([again("replay", dead_letter)], TEN)
    assert durable == ["replay"]
    assert identities(ObservedState(store, tables).snapshot().events) == ["first"]
    assert dead_letters(store) == []


def test_due__reads_later_hours_once(tmp_path: Path, tables: DuckDBFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """The index of each later hour is read once for all dead-letter files of an hour."""
    store, later = KillableDirectory(tmp_path / "storage"), 3
    process = Process(store, tables, contracts(tmp_path, "int"), shards=1)
    for number in range(4):
        process.run([Message(b"{", {"event_type": "thing", "event_id": "a"}, f"broken {number}", NINE)], NINE, last=False)
    for hour in range(1, later + 1):
        good = Message(b'{"x": 1}', {"event_type": "thing", "event_id": f"{hour}"}, f"good {hour}", NINE + hour * HOUR)
        process.run([good], NINE, last=False)
    indexes = []
    read = KillableDirectory.read

    def record_index(self: KillableDirectory, name: str) -> tuple[bytes, Stored]:
        indexes.extend([name] if name.endswith(".ids") else [])
        return read(self, name)

    monkeypatch.setattr(KillableDirectory, "read", record_index)
    replay = Replay(store, frozenset({Reason.NOT_JSON}), NINE + 9 * HOUR, LATENESS)
    assert len(list(replay.due(Bucket(DEAD_LETTERS, NINE.replace(minute=0))))) == 4
    assert len(indexes) == later
