"""The demo as a new user runs it, and the comparison of its verdicts with the input."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pytest

from local.demo.expected import differences, expected_results
from local.demo.summary import read_verdicts
from local.pubsub.broker import Broker
from publisher.simulate import Expected
from schemas.buckets import HOUR as HOUR_LONG
from schemas.buckets import Bucket
from schemas.envelope import format_time, parse_time
from tests.support.clock import PATIENCE, eventually
from tests.support.pubsub import make_subscription, make_topic

ROOT = Path(__file__).parents[3]
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


def test_differences__none() -> None:
    """Expected verdicts have no differences."""
    assert differences([VERDICT], WANTED) == []


@pytest.mark.parametrize("name", [name for name in VERDICT if name not in ("event_type", "hour", "status")])
def test_differences__number(name: str) -> None:
    """A number that differs is named."""
    wrong = {**VERDICT, name: 7}
    assert differences([wrong], WANTED) == [f"a 2026-01-31T09:00:00Z: {name} is 7, not {VERDICT[name]}"]


def test_differences__verdict() -> None:
    """A verdict that is not COMPLETE, is missing or is unexpected is named."""
    assert len(differences([{**VERDICT, "status": "UNKNOWN"}], WANTED)) == 1
    assert len(differences([], WANTED)) == 1
    assert len(differences([VERDICT, {**VERDICT, "event_type": "b"}], WANTED)) == 1


def test_expected_results__flights_and_simulation() -> None:
    """The input is the flights and the simulated traffic, with their empty hours."""
    wanted = expected_results(FLIGHTS, seed=1, events=20_000, hours=3, end=HOUR)
    flights = {key: result for key, result in wanted.items() if key[1].year == 2013}
    assert (len(flights), sum(result.messages for result in flights.values())) == (4 * 77, 5_884)
    music = [result for key, result in wanted.items() if key not in flights]
    assert sum(result.events for result in music) == 20_000
    assert all(result.messages == result.delivered + result.duplicates + result.dead.total() for result in wanted.values())
    assert {len(result.dead) > 0 for result in music} == {True, False}
    assert sum(result.late for result in music) > 0
    assert [key for key, result in wanted.items() if key not in flights and result.messages == 0]


@pytest.mark.slow
def test_main__twice_and_damaged(tmp_path: Path) -> None:
    """Two runs print the same table, and the audit finds damage that is done afterwards."""
    code = "import sys; from pathlib import Path; from local.demo.__main__ import main; sys.exit(main(Path(sys.argv[1])))"
    command = [sys.executable, "-c", code, str(tmp_path / "demo")]
    tables = []
    for _ in range(2):
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout + result.stderr
        assert "The audit's verdicts match the input." in result.stdout
        tables.append(result.stdout[result.stdout.index("event type") : result.stdout.index("Files and manifests")])
        assert {row["status"] for row in read_verdicts(tmp_path / "demo" / "verdicts.json")} == {"COMPLETE"}
    assert tables[0] == tables[1]
    check_audit_of_damage(tmp_path / "demo")


@pytest.mark.integration
def test_main__failed_step(tmp_path: Path) -> None:
    """A step that fails ends the demo with status 2 and an error that names the step."""
    code = "import sys; from pathlib import Path; import local.demo.__main__ as demo; "
    code += "demo.commands = lambda *_: [('Fail', (0, 1), ['local.sql', 'missing.duckdb', 'SELECT 1'])]; "
    code += "sys.exit(demo.main(Path(sys.argv[1])))"
    command = [sys.executable, "-c", code, str(tmp_path / "demo")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1] == "error: the step 'Fail' failed with exit status 2"


@pytest.mark.integration
def test_help__runs_nothing() -> None:
    """--help prints the usage and runs nothing."""
    done = subprocess.run(
        [sys.executable, "-m", "local.demo", "--help"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: python -m local.demo")


@pytest.mark.integration
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_main__signal(tmp_path: Path, number: signal.Signals) -> None:
    """A signal ends the demo and the command that it runs."""
    code = "import sys; from pathlib import Path; from local.demo.__main__ import main; sys.exit(main(Path(sys.argv[1])))"
    command = [sys.executable, "-c", code, str(tmp_path / "demo")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as demo:
        assert eventually(lambda: bool(children_of(demo.pid)))
        children = children_of(demo.pid)
        demo.send_signal(number)
        _, complaint = demo.communicate(timeout=PATIENCE)
    assert demo.returncode == 128 + number
    assert "Traceback" not in complaint
    assert complaint.count("interrupted") == 1
    assert len(children) == 1
    with pytest.raises(ProcessLookupError):
        os.kill(children[0], 0)


def children_of(process: int) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(process)], capture_output=True, text=True, check=False)
    return [int(line) for line in found.stdout.split()]


def check_audit_of_damage(demo: Path) -> None:
    """Delete a file, delete a row and insert one twice. Check that the audit finds each of these buckets, and no other."""
    hours = sorted(read_verdicts(demo / "verdicts.json"), key=lambda row: -row["in_files"])
    hour = parse_time(next(row["hour"] for row in hours if row["event_type"] == "track_played"))
    next((demo / "storage" / Bucket("ad_heard", hour).folder).glob("part-*.avro")).unlink()
    of_hour = f"received_at >= '{format_time(hour)}' AND received_at < '{format_time(hour + HOUR_LONG)}'"
    with duckdb.connect(demo / "tables.duckdb") as db:
        first = "SELECT min(event_id) FROM {0} WHERE " + of_hour
        db.execute(f"DELETE FROM track_played WHERE event_id = ({first.format('track_played')})")
        db.execute(f"INSERT INTO track_skipped SELECT * FROM track_skipped WHERE event_id = ({first.format('track_skipped')})")
    with Broker() as broker:
        subscription = make_subscription(broker.address, make_topic(broker.address))
        flags = [f"--subscription={subscription}", f"--storage={demo / 'storage'}", f"--tables={demo / 'tables.duckdb'}"]
        command = [sys.executable, "-m", "pipelines.audit", *flags, f"--verdicts={demo / 'verdicts.json'}"]
        environment = {**os.environ, "PUBSUB_EMULATOR_HOST": broker.address}
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 1, done.stdout + done.stderr
    found = {
        (row["event_type"], row["hour"]): row["status"]
        for row in read_verdicts(demo / "verdicts.json")
        if row["status"] != "COMPLETE"
    }
    assert found == {
        ("ad_heard", format_time(hour)): "UNKNOWN",
        ("track_played", format_time(hour)): "MISSING",
        ("track_skipped", format_time(hour)): "SURPLUS",
    }
