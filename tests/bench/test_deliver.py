"""The benchmark: its events, contenders, and checks."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import fastavro
import pytest
from rich.console import Console

from bench import deliver
from bench.contenders import CONTENDERS, STEPS, Contender, decode_step, transcode_step
from bench.events import TYPES, messages
from local.pubsub.broker import Broker
from tests.support.pubsub import publisher

EVENTS = 300
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def topic() -> str:
    return deliver.TOPIC


@pytest.fixture(autouse=True)
def broker(monkeypatch: pytest.MonkeyPatch, topic: str):
    with Broker() as broker:
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", broker.address)
        with publisher(broker.address) as client:
            client.create_topic(name=topic)
        yield


def expected_ids() -> list[str]:
    return sorted(message.attributes["event_id"] for message in messages(EVENTS))


def test_messages__have_the_advertised_shape():
    """The messages have the given number, 20 event types, about 320 bytes each, and different events."""
    attributes = [message.attributes for message in messages(EVENTS)]
    assert len(attributes) == EVENTS == len(set(expected_ids()))
    assert {attribute["event_type"] for attribute in attributes} == set(TYPES)
    assert len(TYPES) == 20
    assert 300 < sum(len(message.data) for message in messages(EVENTS)) / EVENTS < 340
    assert len({message.publish_time.replace(minute=0, second=0, microsecond=0) for message in messages(EVENTS)}) == 1


@pytest.mark.integration
@pytest.mark.parametrize("contender", CONTENDERS.values(), ids=CONTENDERS)
def test_contenders__write_every_event_once(contender: Contender, tmp_path: Path, topic: str):
    contender(EVENTS, tmp_path, topic)
    found = []
    for path in tmp_path.rglob("*.avro"):
        assert "staging" not in path.parts
        with path.open("rb") as file:
            rows: Any = fastavro.reader(file)
            found += [row["event_id"] for row in rows]
    assert sorted(found) == expected_ids()


@pytest.mark.integration
def test_deliver_all__loads_every_event_into_a_table(tmp_path: Path, topic: str):
    """Every event is also a row of its event type's table."""
    CONTENDERS["deliver, files and tables"](EVENTS, tmp_path, topic)
    with duckdb.connect(tmp_path / "tables.duckdb", read_only=True) as db:
        names = [name for (name,) in db.execute("SELECT table_name FROM duckdb_tables() WHERE schema_name = 'main'").fetchall()]
        found = [
            row for name in names if name != "dead_letters" for row in db.execute(f"SELECT event_id FROM {name}").fetchall()
        ]
    assert sorted(event_id for (event_id,) in found) == expected_ids()


@pytest.mark.parametrize("step", [transcode_step, decode_step])
def test_steps__reject_no_event(step: Contender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    refusals = []
    monkeypatch.setattr("transforms.decode.decoder.Decoder._refuse", lambda *arguments: refusals.append(arguments))
    step(EVENTS, tmp_path, "")
    assert not refusals


@pytest.mark.parametrize("wrong", [lambda ids: ids[1:], lambda ids: [*ids, ids[0]], lambda ids: [*ids[1:], "other"]])
def test_measure__fails_if_the_written_events_differ(wrong, monkeypatch: pytest.MonkeyPatch):
    """A contender that loses, duplicates or changes an event has no timings."""

    def write(events: int, folder: Path, _: str) -> None:
        schema = {"type": "record", "name": "row", "fields": [{"name": "event_id", "type": "string"}]}
        with (folder / "rows.avro").open("wb") as file:
            fastavro.writer(file, schema, [{"event_id": event_id} for event_id in wrong(expected_ids())])

    monkeypatch.setattr(deliver, "CONTENDERS", {"careless": write})
    with pytest.raises(RuntimeError, match="careless: it did not write each of 300 events exactly once"):
        deliver.measure("careless", EVENTS)


@pytest.mark.slow
def test_main__prints_all_contenders_and_saves_the_rates(tmp_path: Path):
    command = "import sys; from pathlib import Path; from bench import deliver; deliver.LATEST = Path(sys.argv[1]); "
    command += "deliver.ROUNDS = 1; sys.exit(deliver.main(['--events', '50']))"
    latest = tmp_path / "latest.json"
    done = subprocess.run([sys.executable, "-c", command, latest], check=False, capture_output=True, text=True, cwd=ROOT)
    assert set(json.loads(latest.read_text())) == {"deliver", "textbook", "bare_loop"}
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in (*CONTENDERS, *STEPS))


def test_summary_table__eighty_columns():
    timings = {name: deliver.Timings([12.34], [0.5], 12_345.0) for name in (*CONTENDERS, *STEPS)}
    out = io.StringIO()
    console = Console(file=out, width=80, highlight=False)
    console.print(deliver.summary_table(200_000, timings))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in "".join(lines)
    for name in timings:
        [line] = [line for line in lines if line.startswith(f"{name}  ")]
        assert "400,000" in line
        assert line.endswith("12.34 s 12,345 MB")


@pytest.mark.parametrize("number", ["0", "-1", "many", "1.5"])
def test_main__rejects_an_invalid_number_of_events(number: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        deliver.main([f"--events={number}"])
    assert stop.value.code == 2
    assert "is not an integer of 1 or more" in capsys.readouterr().err
