from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import fastavro
import pytest

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


def given_ids() -> list[str]:
    return sorted(message.attributes["event_id"] for message in messages(EVENTS))


def test_the_messages_are_as_many_as_asked_for_of_twenty_types_and_some_320_bytes_each_event_once():
    attributes = [message.attributes for message in messages(EVENTS)]
    assert len(attributes) == EVENTS == len(set(given_ids()))
    assert {one["event_type"] for one in attributes} == set(TYPES)
    assert len(TYPES) == 20
    assert 300 < sum(len(message.data) for message in messages(EVENTS)) / EVENTS < 340
    assert len({message.publish_time.replace(minute=0, second=0, microsecond=0) for message in messages(EVENTS)}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("contender", CONTENDERS.values(), ids=CONTENDERS)
def test_each_contender_writes_every_event_once(contender: Contender, tmp_path: Path, topic: str):
    contender(EVENTS, tmp_path, topic)
    found = []
    for path in tmp_path.rglob("*.avro"):
        assert "staging" not in path.parts
        with path.open("rb") as file:
            rows: Any = fastavro.reader(file)
            found += [row["event_id"] for row in rows]
    assert sorted(found) == given_ids()


@pytest.mark.slow
def test_the_whole_of_deliver_brings_every_event_into_a_table_too(tmp_path: Path, topic: str):
    CONTENDERS["deliver, files and tables"](EVENTS, tmp_path, topic)
    with duckdb.connect(tmp_path / "tables.duckdb", read_only=True) as db:
        kinds = [name for (name,) in db.execute("SELECT table_name FROM duckdb_tables() WHERE schema_name = 'main'").fetchall()]
        found = [
            row for kind in kinds if kind != "dead_letters" for row in db.execute(f"SELECT event_id FROM {kind}").fetchall()
        ]
    assert sorted(event_id for (event_id,) in found) == given_ids()


@pytest.mark.parametrize("step", [transcode_step, decode_step])
def test_the_steps_refuse_none_of_the_events(step: Contender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    refusals = []
    monkeypatch.setattr("transforms.decode.decoder.Decoder._refuse", lambda *arguments: refusals.append(arguments))
    step(EVENTS, tmp_path, "")
    assert not refusals


@pytest.mark.parametrize("wrong", [lambda ids: ids[1:], lambda ids: [*ids, ids[0]], lambda ids: [*ids[1:], "other"]])
def test_a_contender_that_loses_doubles_or_changes_an_event_is_not_timed(wrong, monkeypatch: pytest.MonkeyPatch):
    def write(events: int, folder: Path, _: str) -> None:
        schema = {"type": "record", "name": "row", "fields": [{"name": "event_id", "type": "string"}]}
        with (folder / "rows.avro").open("wb") as file:
            fastavro.writer(file, schema, [{"event_id": one} for one in wrong(given_ids())])

    monkeypatch.setattr(deliver, "CONTENDERS", {"careless": write})
    with pytest.raises(RuntimeError, match="careless: it did not write each of 300 events exactly once"):
        deliver.measure("careless", EVENTS)


@pytest.mark.slow
def test_the_command_shows_every_contender_and_keeps_the_rates(tmp_path: Path):
    command = "import sys; from pathlib import Path; from bench import deliver; deliver.LATEST = Path(sys.argv[1]); "
    command += "deliver.ROUNDS = 1; sys.exit(deliver.main(['--events', '50']))"
    latest = tmp_path / "latest.json"
    done = subprocess.run([sys.executable, "-c", command, latest], check=False, capture_output=True, text=True, cwd=ROOT)
    assert set(json.loads(latest.read_text())) == {"deliver", "textbook", "bare_loop"}
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in (*CONTENDERS, *STEPS))


@pytest.mark.parametrize("number", ["0", "-1", "many", "1.5"])
def test_a_number_of_events_that_is_none_is_refused(number: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        deliver.main([f"--events={number}"])
    assert stop.value.code == 2
    assert "is not an integer of 1 or more" in capsys.readouterr().err
