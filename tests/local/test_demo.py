"""The demo as a newcomer runs it, and that its check can fail."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from local.expected import differences, put_in
from local.picture import read_verdicts
from publisher.simulate import Expected

ROOT = Path(__file__).parents[2]
FLIGHTS = ROOT / "tests" / "data" / "flights.ndjson.gz"
HOUR = datetime(2026, 1, 31, 9, tzinfo=UTC)
VERDICT = {
    "event_type": "a",
    "hour": "2026-01-31T09:00:00Z",
    "status": "COMPLETE",
    "published": 3,
    "received": 3,
    "in_files": 2,
    "in_table": 2,
    "late": 0,
    "duplicates": 1,
    "dead_letters": 0,
}
WANTED = {("a", HOUR): Expected(messages=3, events=2, delivered=2, duplicates=1)}


def test_verdicts_that_say_what_was_put_in_do_not_differ() -> None:
    assert differences([VERDICT], WANTED) == []


@pytest.mark.parametrize("name", [name for name in VERDICT if name not in ("event_type", "hour", "status")])
def test_a_number_that_differs_is_named(name: str) -> None:
    wrong = {**VERDICT, name: 7}
    assert differences([wrong], WANTED) == [f"a 2026-01-31T09:00:00Z: {name} is 7, not {VERDICT[name]}"]


def test_a_verdict_that_is_not_complete_or_missing_or_of_something_else_is_named() -> None:
    assert len(differences([{**VERDICT, "status": "UNKNOWN"}], WANTED)) == 1
    assert len(differences([], WANTED)) == 1
    assert len(differences([VERDICT, {**VERDICT, "event_type": "b"}], WANTED)) == 1


def test_what_is_put_in_is_the_flights_and_the_simulation_with_their_empty_hours() -> None:
    wanted = put_in(FLIGHTS, seed=1, events=20_000, hours=3, end=HOUR)
    flights = {key: one for key, one in wanted.items() if key[1].year == 2013}
    assert (len(flights), sum(one.messages for one in flights.values())) == (4 * 77, 5_884)
    music = [one for key, one in wanted.items() if key not in flights]
    assert sum(one.events for one in music) == 20_000
    assert all(one.messages == one.delivered + one.duplicates + one.dead.total() for one in wanted.values())
    assert {len(one.dead) > 0 for one in music} == {True, False}
    assert sum(one.late for one in music) > 0
    assert [key for key, one in wanted.items() if key not in flights and one.messages == 0]


@pytest.mark.slow
def test_the_demo_ends_well_and_twice_with_the_same_table(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from local.demo import main; sys.exit(main(Path(sys.argv[1])))"
    command = [sys.executable, "-c", code, str(tmp_path / "demo")]
    tables = []
    for _ in range(2):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "The audit says what was put in." in done.stdout
        tables.append(done.stdout[done.stdout.index("event type") : done.stdout.index("Files and receipts")])
        assert {row["status"] for row in read_verdicts(tmp_path / "demo" / "verdicts.json")} == {"COMPLETE"}
    assert tables[0] == tables[1]
