"""Whole runs of deliver with failing stores and Pub/Sub: nothing is lost and nothing is delivered twice.

A run that gives up prints the reason on one line and leaves the rest to the next run.
"""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from typing import Any

import pytest

from local.pubsub.backlog import Backlog
from storage.objects import gcs as cloud_storage
from tests.support.clock import PATIENCE, run_on_clock
from tests.support.stores import HOURS, Cloud, Delivery

pytestmark = pytest.mark.integration

FOREVER = 1_000_000
POINTS = 4
"""Moments of a run, evenly spread over its requests, at which a fault begins."""


def slow(*values: object) -> list[Any]:
    """Variants of a fault that make test-slow plays: make test has one of the kind."""
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


def points(requests: int) -> list[int]:
    return [requests * number // POINTS for number in range(POINTS)]


@pytest.mark.parametrize("seed", [1, *slow(2, 3)])
def test_deliver__flaky_stores(cloud: Cloud, seed: int) -> None:
    """Stores that fail a share of all requests have no effect on the result."""
    cloud.gcs.be_flaky(0.2, seed, 0, 408, 429, 500, 502, 503, 504)
    cloud.bigquery.be_flaky(0.3, seed, 0, 429, 500, 502, 503)
    cloud.publish(*(f"a{number}" for number in range(40)))
    assert cloud.run() == (0, "")
    cloud.publish(*(f"b{number}" for number in range(40)))
    assert cloud.run() == (0, "")
    assert cloud.gcs.met > 10
    assert cloud.bigquery.met > 2
    cloud.gcs.restore()
    cloud.bigquery.restore()
    cloud.check()


@pytest.mark.parametrize("status", [503, *slow(429, 0)])
def test_deliver__object_store_fails_in_mid_run(cloud: Cloud, status: int) -> None:
    """An object store that fails from some request on ends the run, and the next run recovers."""
    cloud.publish("first-0", "first-1")
    assert cloud.run() == (0, "")
    for number, point in enumerate(points(len(cloud.gcs.requests))):
        cloud.set_retry_timeout(0.3)
        cloud.gcs.fail_next(FOREVER, status, skip=point)
        cloud.publish(f"{number}-0", f"{number}-1")
        exit_status, error = cloud.run()
        assert exit_status == 2
        assert "gs://bucket-of-events/data" in error
        assert "What to do: check the network" in error
        cloud.gcs.restore()
        cloud.set_retry_timeout(PATIENCE)
        assert cloud.run() == (0, "")
    cloud.check(repeated=True)


def test_deliver__every_precondition_fails(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that refuses every precondition ends the run, and the next run recovers."""
    monkeypatch.setattr("storage.buckets.manifest_store.MAX_RACES", 10)
    monkeypatch.setattr("storage.buckets.manifest_store.LONGEST_PAUSE", 0.01)
    ends = []
    cloud.publish("first-0", "first-1")
    assert cloud.run() == (0, "")
    conditional = [line for line in cloud.gcs.requests if "ifGenerationMatch" in line]
    for number, point in enumerate(points(len(conditional))):
        cloud.gcs.fail_next(FOREVER, 412, match="ifGenerationMatch", skip=point)
        cloud.publish(f"{number}-0", f"{number}-1")
        ends.append(cloud.run()[0])
        cloud.gcs.restore()
        assert cloud.run() == (0, "")
    # A refusal at the end of a run, where only markers are still to be written, may be harmless.
    assert set(ends) <= {0, 2}
    assert ends.count(2) >= POINTS // 2
    cloud.check(repeated=True)


@pytest.mark.parametrize("status", [0, *slow(503)])
def test_deliver__lost_responses_to_writes(cloud: Cloud, status: int) -> None:
    """Lost responses to writes have no effect, unless all of them are lost."""
    cloud.publish("first-0", "first-1")
    assert cloud.run() == (0, "")
    writes = sum(line.startswith("POST") for line in cloud.gcs.requests)
    for number, point in enumerate(points(writes)):
        cloud.gcs.lose_answer(1, "POST", status, skip=point)
        cloud.publish(f"{number}-0", f"{number}-1")
        assert cloud.run() == (0, "")
    assert cloud.gcs.met == POINTS
    cloud.gcs.lose_answer(FOREVER, "POST", status)
    cloud.set_retry_timeout(0.3)
    cloud.publish("last-0", "last-1")
    assert cloud.run()[0] == 2
    cloud.gcs.restore()
    assert cloud.run() == (0, "")
    cloud.check(repeated=True)


def test_deliver__writes_take_effect_late(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes that take effect after their client has given up do no harm."""
    monkeypatch.setitem(cloud_storage._ONE_TRY, "timeout", 0.5)
    for number in range(3):
        for match in ("POST /upload", "POST /upload", "ifGenerationMatch", "ifGenerationMatch", "rewriteTo"):
            cloud.gcs.before_next(lambda: time.sleep(1), match)
        cloud.publish(f"{number}-0", f"{number}-1", f"{number}-2", f"{number}-3")
        assert cloud.run() == (0, "")
    cloud.check()


def test_deliver__table_store_fails_in_mid_run(cloud: Cloud) -> None:
    """A table store that fails from some request on ends the run, and the next run loads."""
    cloud.publish("first-0", "first-1")
    assert cloud.run() == (0, "")
    before = len(cloud.bigquery.requests)
    cloud.publish("second-0", "second-1")
    assert cloud.run() == (0, "")
    for number, point in enumerate(points(len(cloud.bigquery.requests) - before)):
        cloud.set_retry_timeout(0.3)
        cloud.bigquery.fail_next(FOREVER, 503, skip=point)
        cloud.publish(f"{number}-0", f"{number}-1")
        exit_status, error = cloud.run()
        assert exit_status == 2
        assert "bigquery://project-1.events" in error
        cloud.bigquery.restore()
        cloud.set_retry_timeout(PATIENCE)
        assert cloud.run() == (0, "")
    cloud.check(repeated=True)


def test_deliver__load_fails_once(cloud: Cloud) -> None:
    cloud.bigquery.fail_loads(1)
    cloud.publish("a", "b", "c")
    assert cloud.run() == (0, "")
    cloud.check()


def test_deliver__loads_fail_permanently(
    cloud: Cloud,
) -> None:
    """Permanently failing loads are named, their files are safe, and the next run loads them with new job ids."""
    cloud.publish("a", "b", "c")
    for _ in range(2):
        cloud.bigquery.fail_loads(FOREVER)
        exit_status, error = cloud.run()
        assert exit_status == 2
        lines = error.splitlines()
        assert lines[0] == "2 partitions could not be loaded; all others were. No event is lost, and the next run loads them:"
        assert all(
            f"can't load the hour {hour:%Y-%m-%dT%H} of table search_made" in line
            for hour, line in zip(HOURS, lines[1:], strict=True)
        )
        assert cloud.world.undelivered() == 0
    cloud.bigquery.fail_loads(0)
    assert cloud.run() == (0, "")
    cloud.check()


@pytest.mark.parametrize("status", [0, 503])
def test_deliver__lost_response_to_a_load(cloud: Cloud, status: int) -> None:
    """A load that is requested twice because its response was lost runs once."""
    cloud.bigquery.delay = 2
    cloud.bigquery.lose_answer(3, "/jobs", status)
    cloud.publish("a", "b", "c")
    assert cloud.run() == (0, "")
    assert cloud.bigquery.met == 3
    cloud.check()


def test_deliver__older_load_ends_last(cloud: Cloud) -> None:
    """An older manifest's load that ends after a newer one's does not win.

    While the first run's load of an hour is running, a whole second run delivers to that hour and loads it.
    """
    loaded: list[int] = []

    def overtake() -> None:
        cloud.publish("newer")
        done = subprocess.run([*run_on_clock("pipelines.deliver"), *cloud.flags()], check=False, timeout=PATIENCE)
        loaded.append(len(cloud.store.rows("search_made", HOURS[0])))
        assert done.returncode == 0

    cloud.publish("older")
    cloud.bigquery.before_next(overtake, "POST /bigquery/v2/projects/project-1/jobs")
    assert cloud.run() == (0, "")
    assert loaded == [2]
    cloud.check()


def test_deliver__duckdb_file_is_locked(local: Delivery) -> None:
    """A DuckDB file that another process has open ends the run before any message is pulled."""
    local.publish("a", "b")
    keep = "import duckdb, sys; db = duckdb.connect(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", keep, str(local.world.tables)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout
        assert other.stdout.readline() == "open\n"
        exit_status, error = local.run()
        assert other.stdin
        other.stdin.close()
    assert exit_status == 2
    assert "is open in another process" in error
    assert local.run() == (0, "")
    local.check()


@pytest.mark.parametrize("call", ["fsync", *slow("replace", "mkdir")])
def test_deliver__disk_is_full(local: Delivery, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full from some call on ends the run, and the next run recovers."""
    real = getattr(os, call)
    calls_left = FOREVER
    calls = 0
    lock = threading.Lock()

    def limited(*arguments: Any, **named: Any) -> Any:
        nonlocal calls_left, calls
        with lock:
            calls, calls_left = calls + 1, calls_left - 1
            if calls_left < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*arguments, **named)

    local.publish("first-0", "first-1")
    with monkeypatch.context() as patch:
        patch.setattr(os, call, limited)
        assert local.run() == (0, "")
        for number, point in enumerate(points(calls)):
            local.publish(f"{number}-0", f"{number}-1")
            calls_left = point
            exit_status, error = local.run()
            if calls_left < 0:
                assert exit_status == 2
                assert "No space left on device" in error
                assert "free some space" in error.lower()
            calls_left = FOREVER
            assert local.run() == (0, "")
    local.check(repeated=True)


def test_deliver__redelivery_in_any_order(local: Delivery, monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages are delivered once, however often and in whatever order Pub/Sub redelivers them.

    A message that was not acknowledged in time may be redelivered while its first delivery is in progress.
    """
    chance = random.Random(7)
    take = Backlog.take
    copies: Counter[bytes] = Counter()

    def take_and_redeliver(backlog: Backlog, *arguments: Any) -> list[tuple[str, bytes]]:
        chance.shuffle(backlog._available)
        taken = take(backlog, *arguments)
        for _, message in taken:
            if copies[message] < 99:
                copies[message] += 1
                backlog.add([message])
        return taken

    local.publish(*(f"a{number}" for number in range(30)))
    with monkeypatch.context() as patch:
        patch.setattr(Backlog, "take", take_and_redeliver)
        assert local.run() == (0, "")
    assert local.run() == (0, "")
    received = sum(manifest["counts"]["search_made"]["received"] for manifest in local.manifests().values())
    assert received >= 30 * 100
    local.check(repeated=True)


def test_deliver__redelivery_after_each_run(local: Delivery, monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages that are redelivered after each of several runs are duplicates."""
    local.publish(*(f"a{number}" for number in range(10)))
    with monkeypatch.context() as patch:
        patch.setattr(Backlog, "ack", lambda backlog, now, ack_ids: backlog.set_expiry(now, ack_ids, 0))
        for _ in range(5):
            assert local.run() == (0, "")
    assert local.run() == (0, "")
    local.check(repeated=True)
    assert {manifest["counts"]["search_made"]["duplicate"] for manifest in local.manifests().values()} == {25}
