"""`deliver --mode=stream` as a user runs it: a process on Prism, ended by signals. `test_stream` looks inside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from local.pubsub.broker import Broker
from schemas.buckets import DEAD_LETTERS, hour_of
from tests.support.clock import CLOCK, LAST_HOUR, PATIENCE, eventually
from tests.support.delivery import FLIGHT_TYPES, LONG_AGO, SEARCH, World, flights, make_world, search
from tests.support.pubsub import publisher, pull_now, subscriber
from tests.support.streams import streaming
from transforms.pubsub.leases import LEASE_SECONDS

pytestmark = pytest.mark.integration

SOON, LATER = "--flush_every=1s", "--flush_every=1h"

NOTE_ACKS = """
from transforms.pubsub.leases import Leases
acknowledge = Leases._acknowledge
def noted(self, ids):
    acknowledge(self, ids)
    with open("{acks}", "a") as file:
        file.write("x" * len(ids))
Leases._acknowledge = noted
"""


def delivered(world: World, stream: str = "search_made") -> list[str]:
    return [row["event_id"] for row in world.rows(stream)]


def is_running(process: int) -> bool:
    return subprocess.run(["ps", "-p", str(process)], capture_output=True, check=False).returncode == 0


def in_table(world: World) -> list[str]:
    return [row[0] for row in world.query("SELECT event_id FROM search_made ORDER BY event_id")]


def backlog(world: World) -> list[str]:
    """Return the ids of the messages that the subscription would deliver now, and release them again."""
    with subscriber(world.address) as client:
        found = pull_now(client, world.subscription)
        if found:
            client.modify_ack_deadline(
                subscription=world.subscription, ack_ids=[received.ack_id for received in found], ack_deadline_seconds=0
            )
    return sorted(received.message.attributes["event_id"] for received in found)


def feed(world: World, committed: Callable[[], bool] = lambda: True) -> None:
    """Publish the flights hour by hour, with a report on each. The first hour comes in halves, with a commit between them."""
    by_hour = groupby(sorted(flights(), key=lambda event: event[1]["received_at"]), lambda event: event[1]["received_at"][:13])
    with publisher(world.address) as client:
        for text, found in by_hour:
            events = list(found)
            for half in (events[::2], events[1::2]):
                for future in [client.publish(world.topic, data, **attributes) for data, attributes in half]:
                    future.result(timeout=PATIENCE)
                assert eventually(committed)
            for kind in FLIGHT_TYPES:
                ids = [attributes["event_id"] for _, attributes in events if attributes["event_type"] == kind]
                world.report(kind, datetime.fromisoformat(f"{text}:00+00:00"), ids)


def outcome(world: World) -> dict[str, Any]:
    """Return the results that must not depend on the order of arrival.

    The number of files, and whether events are late, may differ.
    """
    facts = ("closed", "rows", "fingerprint", "counts")
    streams = (*FLIGHT_TYPES, DEAD_LETTERS)
    return {
        "ids": {kind: delivered(world, kind) for kind in FLIGHT_TYPES},
        "manifests": {
            (kind, hour): [manifest[name] for name in facts]
            for kind in streams
            for hour, manifest in world.manifests(kind).items()
        },
        "table": {kind: sorted(world.query(f"SELECT event_id, received_at FROM {kind}")) for kind in FLIGHT_TYPES},
        "verdicts": world.query("SELECT event_type, hour, status, published, in_files, in_table FROM verdicts ORDER BY ALL"),
    }


def test_stream__same_outcome_as_batch(tmp_path: Path, broker_address: str, flights_world: World, prism_binary: str) -> None:
    """Flights that are fed to a stream hour by hour have the same outcome as in a batch run."""
    stopping = flights_world
    contracts = {path.parent.name: json.loads(path.read_text()) for path in stopping.contracts.glob("*/v1.avsc")}
    world = make_world(tmp_path / "stream", broker_address, contracts)
    with streaming(world, prism_binary, SOON, LONG_AGO) as running:
        feed(world, lambda: any(world.storage.rglob("_receipts/*.json")))
        hours = 77
        assert eventually(lambda: len(list(world.storage.rglob("_SUCCESS"))) == hours * (len(FLIGHT_TYPES) + 1))
        assert eventually(lambda: len(list(world.storage.rglob("_receipts/*.json"))) > hours * (len(FLIGHT_TYPES) + 1))
        status, stderr = running.end()
    assert status == 0, stderr
    assert world.undelivered() == 0

    feed(stopping)
    stopping.deliver(LONG_AGO)
    assert world.audit() == stopping.audit() == 0
    assert outcome(world) == outcome(stopping)


def test_stream__ack_follows_the_commit(tmp_path: Path, prism_binary: str) -> None:
    """A stream that is killed before it flushes has acknowledged nothing; after a flush it has."""
    ahead = [0.0]
    with Broker(clock=lambda: CLOCK.seconds() + ahead[0]) as broker:
        world = make_world(tmp_path, broker.address, {"search_made": SEARCH})
        with streaming(world, prism_binary, LATER) as running:
            world.publish(search("a"), search("b"))
            assert eventually(lambda: backlog(world) == [])
            time.sleep(2)
            assert list(world.storage.rglob("_receipts/*.json")) == []
            running.end(signal.SIGKILL)
        ahead[0] += LEASE_SECONDS + 1
        assert backlog(world) == ["a", "b"]

        with streaming(world, prism_binary, SOON, settings=NOTE_ACKS.format(acks=tmp_path / "acks")) as running:
            assert eventually(lambda: (tmp_path / "acks").exists() and len((tmp_path / "acks").read_text()) == 2)
            assert delivered(world) == ["a", "b"]
            running.end(signal.SIGKILL)
        ahead[0] += LEASE_SECONDS + 1
        assert backlog(world) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stream__signal_drains(world: World, prism_binary: str, number: signal.Signals) -> None:
    """A signal drains a stream: pulled messages are delivered, and the current hour stays open."""
    ids = sorted(f"id-{index:04}" for index in range(1500))
    hour = hour_of(CLOCK.now())
    with streaming(world, prism_binary, LATER) as running:
        world.publish(*map(search, ids[:1000]))
        assert eventually(lambda: backlog(world) == [])
        assert list(world.storage.rglob("_receipts/*.json")) == []
        world.publish(*map(search, ids[1000:]))
        status, stderr = running.end(number)
    assert status == 0, stderr
    assert "Traceback" not in stderr
    # Pulled messages are delivered, loaded and acknowledged; the others, if any, are redelivered at once.
    taken, rest = delivered(world), backlog(world)
    assert set(taken) >= set(ids[:1000])
    assert sorted([*taken, *rest]) == ids
    assert in_table(world) == taken
    assert not world.manifests("search_made")[hour]["closed"]
    assert not list(world.storage.rglob(f"hour={hour:%H}/_SUCCESS"))


def test_stream__second_signal(world: World, prism_binary: str) -> None:
    """A second signal ends a stream at once and releases the messages that it holds."""
    with streaming(world, prism_binary, LATER) as running:
        world.publish(search("a"))
        assert eventually(lambda: backlog(world) == [])
        prism = running.prism()
        # Stop Prism, so that the drain would last until its time-out.
        os.kill(prism, signal.SIGSTOP)
        running.process.send_signal(signal.SIGTERM)
        assert running.prints("draining:")
        # It ends long before DRAIN_SECONDS.
        status, stderr = running.end()
        os.kill(prism, signal.SIGKILL)
    assert status == 128 + signal.SIGTERM, stderr
    assert backlog(world) == ["a"]


def test_stream__killed_and_restarted(world: World, prism_binary: str) -> None:
    """A stream that is killed and started again loses nothing and delivers nothing twice."""
    ids = [f"id-{index:04}" for index in range(3000)]
    with streaming(world, prism_binary, SOON) as running:
        for start in range(0, 1500, 100):
            world.publish(*map(search, ids[start : start + 100]))
        assert eventually(lambda: bool(world.manifests("search_made")))
        world.publish(*map(search, ids[1500:]))
        prism = running.prism()
        running.end(signal.SIGKILL)
        # Without its parent, Prism must end by itself: it would stay busy for ever.
        assert eventually(lambda: not is_running(prism))
    with streaming(world, prism_binary, SOON) as running:
        assert eventually(lambda: len(delivered(world)) >= len(ids))
        status, stderr = running.end()
    assert status == 0, stderr
    assert delivered(world) == in_table(world) == ids
    assert world.undelivered() == 0


def test_stream__closes_hours_left_open(world: World, prism_binary: str) -> None:
    """A stream closes an hour that an earlier run left open."""
    with streaming(world, prism_binary, SOON) as running:
        world.publish(search("a", LAST_HOUR))
        closed = lambda: {  # noqa: E731
            stream
            for stream in ("search_made", "tap", DEAD_LETTERS)
            if world.manifests(stream).get(LAST_HOUR, {}).get("closed")
        }
        assert eventually(lambda: len(closed()) == 3)
        assert running.end()[0] == 0


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--mode=stream", "--prism_location=/nowhere/prism"], "--prism_location"),
        (["--mode=stream", "--prism_location={folder}"], "--prism_location"),
        (["--mode=stream", "--prism_location={text}"], "--prism_location"),
        (["--flush_every=5s"], "--mode=stream"),
        (["--mode=stream", "--flush_every=0s"], "at least 1s"),
    ],
)
def test_stream__wrong_flags(world: World, flags: list[str], problem: str, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("not a program")
    environment = {**os.environ, "PUBSUB_EMULATOR_HOST": world.address, "NO_GCE_CHECK": "true"}
    formatted = [flag.format(folder=tmp_path, text=text) for flag in flags]
    command = [sys.executable, "-m", "pipelines.deliver", *world.deliver_flags(), *formatted]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=PATIENCE, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr.strip().startswith("error: ")
    assert problem in done.stderr
    assert "Traceback" not in done.stderr
