"""Commands: clear errors before anything starts, signals, and `--help`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from local.pubsub.broker import Broker
from pipelines import deliver
from pipelines.command import run_command
from tests.support.clock import CLOCK, PATIENCE, eventually, run_on_clock
from tests.support.delivery import FLIGHT_TYPES, LONG_AGO, SEARCH, World, flights, make_world, search, use_broker
from tests.support.pubsub import free_port, pull_now, subscriber
from transforms.decode.decoder import Decoder

pytestmark = pytest.mark.integration


def run(module: str, *arguments: str, host: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a user does, in a process of its own."""
    environment = {**os.environ, "PUBSUB_EMULATOR_HOST": host, "NO_GCE_CHECK": "true", "HOME": "/nowhere"}
    environment.pop("GOOGLE_APPLICATION_CREDENTIALS", None)
    command = [*run_on_clock(module), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=PATIENCE, check=False)


def status_of(main: Callable[[Sequence[str]], int], arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int | str | None:
    """Run a command in this process and return its exit status."""
    monkeypatch.setattr(sys, "argv", ["a-pipeline", *arguments])
    with pytest.raises(SystemExit) as end:
        sys.exit(run_command(main))
    return end.value.code


def replaced(flags: list[str], name: str, value: str | None) -> list[str]:
    rest = [flag for flag in flags if not flag.startswith(f"--{name}=")]
    return rest if value is None else [*rest, f"--{name}={value}"]


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("subscription", None, "--subscription"),
        ("storage", None, "--storage"),
        ("subscription", "flights", "projects/PROJECT/subscriptions/NAME"),
        ("subscription", "projects/test-project/subscriptions/none-such", "does not exist"),
        ("audit_topic", "projects/test-project/topics/none-such", "does not exist"),
        ("storage", "{file}", "{file}"),
        ("storage", "s3://somewhere", "s3://somewhere"),
        ("tables", "tables.csv", "tables.csv"),
        ("tables", "bigquery://project-one.events", "gs://"),
        ("contracts", "{file}", "{file}"),
        ("contracts", "{broken}", "{broken}"),
        ("allowed_lateness", "soon", "7d"),
        ("allowed_lateness", "900000d", "36500d"),
        ("allowed_lateness", "99999999999999d", "36500d"),
        ("contracts", "{empty}", "{empty}"),
        ("bucket", "x", "--bucket=x"),
        ("audit_topic", "{topic}", "is the topic of"),
        ("dry_run", "True", "--runner=DataflowRunner"),
        ("direct_running_mode", "multi_processing", "in this process"),
    ],
)
def test_deliver__wrong_flag(
    world: World,
    name: str,
    value: str | None,
    problem: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = world.folder / "a-file"
    file.write_text("")
    broken = world.folder / "broken" / "thing" / "v1.avsc"
    broken.parent.mkdir(parents=True)
    broken.write_text("{")
    empty = world.folder / "empty"
    empty.mkdir()
    names = {"file": str(file), "broken": str(broken.parent.parent), "empty": str(empty), "topic": world.topic}
    flags = replaced(world.deliver_flags(), name, value and value.format(**names))
    assert status_of(deliver.main, flags, monkeypatch) == 2
    complaint = capsys.readouterr().err
    assert problem.format(**names) in complaint
    assert "Traceback" not in complaint
    assert not Path(world.storage / "events").exists()


@pytest.mark.parametrize("module", ["pipelines.deliver", "pipelines.audit"])
def test_command__unreachable_pubsub(world: World, module: str) -> None:
    flags = world.deliver_flags()
    if module == "pipelines.audit":
        world.publish(search("a"))
        world.deliver()
        flags = replaced(replaced(flags, "contracts", None), "audit_topic", None)
    done = run(module, *flags, host=f"127.0.0.1:{free_port()}")
    assert done.returncode == 2
    assert "Pub/Sub can't be used" in done.stderr
    assert "What to do: start the broker (python -m local.pubsub) or unset PUBSUB_EMULATOR_HOST\n" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("module", ["pipelines.deliver", "pipelines.audit"])
def test_command__no_credentials(world: World, module: str) -> None:
    """Without credentials and broker, one line names both remedies."""
    flags = world.deliver_flags()
    if module == "pipelines.audit":
        world.publish(search("a"))
        world.deliver()
        flags = replaced(replaced(flags, "contracts", None), "audit_topic", None)
    done = run(module, *flags, host="")
    assert done.returncode == 2
    assert "gcloud auth application-default login" in done.stderr
    assert "PUBSUB_EMULATOR_HOST" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_deliver__interrupted(flights_world: World, number: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupted run releases all messages and prints one line."""
    world = flights_world
    world.publish(*flights())
    environment = {**os.environ, "PUBSUB_EMULATOR_HOST": world.address, "NO_GCE_CHECK": "true"}
    command = [*run_on_clock("pipelines.deliver"), *world.deliver_flags(), LONG_AGO]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as running:
        assert eventually(lambda: bool(list(world.storage.rglob("_RECEIPT.json"))))
        running.send_signal(number)
        _, complaint = running.communicate(timeout=PATIENCE)
    assert running.returncode == 128 + number, complaint
    assert "interrupted:" in complaint
    assert "Traceback" not in complaint
    assert "delivered and acknowledged" not in complaint
    assert "could not release messages" not in complaint
    assert world.deliver(LONG_AGO) == 0
    ids = {attributes["event_id"] for _, attributes in flights()}
    found = [row["event_id"] for kind in FLIGHT_TYPES for row in world.rows(kind)]
    assert (set(found), len(found)) == (ids, len(ids))


IN_ANOTHER_THREAD = """
import signal, sys, threading, time
from pipelines.command import run_main

def main(_):
    time.sleep(0.5)
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
    time.sleep(30)
    return 0

sys.exit(run_main(main))
"""


def test_run_main__signal_in_another_thread() -> None:
    """A signal that the kernel delivers to another thread ends the process too.

    The thread that waits for it is not woken then.
    """
    command = [sys.executable, "-c", IN_ANOTHER_THREAD]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 128 + signal.SIGTERM, done.stderr


def test_deliver__pubsub_unreachable_in_mid_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Broker(clock=CLOCK.seconds) as broker:
        use_broker(monkeypatch, broker.address)
        world = make_world(tmp_path, broker.address, {"search_made": SEARCH})
        world.publish(search("a"))
        monkeypatch.setattr("transforms.pubsub.retry.RETRY_SECONDS", 1.0)
        monkeypatch.setattr("transforms.report.REPORT_SECONDS", 1.0)
        finish = Decoder.finish

        def stop_broker(decoder: Decoder) -> Any:
            broker.__exit__()
            monkeypatch.setattr(Decoder, "finish", finish)
            return finish(decoder)

        monkeypatch.setattr(Decoder, "finish", stop_broker)
        assert status_of(deliver.main, world.deliver_flags(), monkeypatch) == 2
    complaint = capsys.readouterr().err
    assert "error: projects/test-project/" in complaint
    assert "Pub/Sub" in complaint.splitlines()[-1]
    assert "Traceback" not in complaint


def test_deliver__leases_of_a_killed_run(world: World) -> None:
    """A run without messages prints that a killed run may still hold leases."""
    world.publish(search("a"))
    with subscriber(world.address) as client:
        assert len(pull_now(client, world.subscription)) == 1
    done = run("pipelines.deliver", *world.deliver_flags(), host=world.address)
    assert done.returncode == 0
    assert "0 messages delivered" in done.stderr
    assert "within 60 s" in done.stderr


@pytest.mark.parametrize("module", ["pipelines.deliver", "pipelines.audit"])
def test_command__help(world: World, module: str) -> None:
    done = run(module, "--help", host=world.address)
    assert done.returncode == 0
    for flag in ("--subscription", "--storage", "--tables"):
        assert flag in done.stdout
