"""Replaying, without an engine: what is refused again is the same dead letter, whatever it is refused for."""

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
from tests.model.process import LATENESS, Message, Process, Stopping
from transforms.recovery.replay import DeadLetter, Replay

NINE = datetime(2026, 1, 31, 9, 50, tzinfo=UTC)
TEN = NINE + timedelta(minutes=20)


@pytest.fixture
def tables(tmp_path: Path) -> Iterator[DuckDBFile]:
    tables = DuckDBFile(tmp_path / "tables.duckdb")
    yield tables
    tables.close()


def contracts(folder: Path, *types: str) -> Contracts:
    """A version of the type `thing` with its only field of each of these types."""
    for version, type_ in enumerate(types, 1):
        path = folder / "contracts" / "thing" / f"v{version}.avsc"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"type": "record", "name": "thing", "fields": [{"name": "x", "type": type_}]}))
    return load_contracts(folder / "contracts")


def thing(name: str, x: int, moment: datetime) -> Message:
    return Message(b'{"x": %d}' % x, {"event_type": "thing", "event_id": "a"}, name, moment)


def again(name: str, dead_letter: DeadLetter) -> Message:
    return Message(dead_letter.data, dict(dead_letter.attributes), name, TEN)


def dead_letters(store: Stopping) -> list[DeadLetter]:
    return list(Replay(store, frozenset(Reason), TEN, LATENESS).due(Bucket(DEAD_LETTERS, TEN.replace(minute=0))))


def identities(rows: list[Row]) -> list[str]:
    return [row.identity for row in rows]


@pytest.mark.parametrize("x", [2, 3_000_000_000], ids=["refused for its payload", "refused by its contract at first"])
def test_what_is_refused_for_another_hours_event_is_the_same_dead_letter_however_often(
    tmp_path: Path, tables: DuckDBFile, x: int
) -> None:
    store = Stopping(tmp_path / "storage")
    process = Process(store, tables, contracts(tmp_path, "int"), 1)
    process.run([thing("first", 1, NINE), thing("second", x, TEN)], TEN)
    held = ObservedState(store, tables).held()
    assert (identities(held.events), identities(held.dead_letters)) == (["first"], ["second"])
    # By the second version both numbers are good; the id is delivered all the same, with another payload.
    mended = Process(store, tables, contracts(tmp_path, "int", "long"), 1)
    for number in range(2):
        [dead_letter] = dead_letters(store)
        mended.run([again(f"replay-{number}", dead_letter)], TEN + HOUR)
    held = ObservedState(store, tables).held()
    assert (identities(held.events), identities(held.dead_letters)) == (["first"], ["second"])


def test_a_replayed_event_is_known_by_its_dead_letter(tmp_path: Path, tables: DuckDBFile) -> None:
    store = Stopping(tmp_path / "storage")
    Process(store, tables, contracts(tmp_path, "int"), 1).run([thing("first", 3_000_000_000, TEN)], TEN)
    [dead_letter] = dead_letters(store)
    durable = Process(store, tables, contracts(tmp_path, "int", "long"), 1).run([again("replay", dead_letter)], TEN)
    assert durable == ["replay"]
    assert identities(ObservedState(store, tables).held().events) == ["first"]
    assert dead_letters(store) == []


def test_the_hours_since_are_asked_once_for_all_files_of_an_hours_dead_letters(
    tmp_path: Path, tables: DuckDBFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, later = Stopping(tmp_path / "storage"), 3
    process = Process(store, tables, contracts(tmp_path, "int"), shards=1)
    for number in range(4):
        process.run([Message(b"{", {"event_type": "thing", "event_id": "a"}, f"broken {number}", NINE)], NINE, last=False)
    for hour in range(1, later + 1):
        good = Message(b'{"x": 1}', {"event_type": "thing", "event_id": f"{hour}"}, f"good {hour}", NINE + hour * HOUR)
        process.run([good], NINE, last=False)
    indexes = []
    read = Stopping.read

    def noted(self: Stopping, name: str) -> tuple[bytes, Stored]:
        indexes.extend([name] if name.endswith(".ids") else [])
        return read(self, name)

    monkeypatch.setattr(Stopping, "read", noted)
    replay = Replay(store, frozenset({Reason.NOT_JSON}), NINE + 9 * HOUR, LATENESS)
    assert len(list(replay.due(Bucket(DEAD_LETTERS, NINE.replace(minute=0))))) == 4
    assert len(indexes) == later
