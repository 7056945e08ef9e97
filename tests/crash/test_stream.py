"""A stream on Prism is killed while events arrive; the runs after it give each message one outcome."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.crash.crash_points import ELSEWHERE, STAGES
from tests.crash.expected_events import Event, Witness, check, first_round, publish, report, second_round
from tests.crash.fork_server import STREAM
from tests.crash.worlds import Field, Target, attempt, audit, finish, new_world, release_all
from tests.support.delivery import World

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore:The return_immediately flag")]

HIT = (*STAGES[STREAM][::3], ELSEWHERE)
"""Every third stage, since each stream takes seconds to start."""
FAST = HIT[2:4]
"""Stages in `make test`."""
MOST = 150.0
"""Seconds after which a stream is killed in any case."""
ROUNDS = 6
"""Batches of events, so that each hour has several files, manifests and loads."""


def feed(world: World, events: Sequence[Event], ended: threading.Event) -> None:
    """Publish the events in batches while a stream runs.

    Each batch waits for a commit of the one before, or for the end of the stream.
    """
    size = -(-len(events) // ROUNDS)
    for start in range(0, len(events), size):
        committed = commits(world)
        publish(world, events[start : start + size])
        while commits(world) == committed and not ended.wait(0.1):
            pass


def commits(world: World) -> int:
    return len(list(world.storage.rglob("_receipts/*.json")))


def kill_while_fed(world: World, field: Field, target: Target, events: Sequence[Event], prism: str) -> bool:
    """Kill a stream while it is fed. Returns whether it was killed at the target."""
    flags = [*world.deliver_flags(), "--mode=stream", f"--prism_location={prism}", "--flush_every=1s"]
    ended = threading.Event()
    feeding = threading.Thread(target=feed, args=(world, events, ended))
    feeding.start()
    try:
        stage = field.kills.add(STREAM, attempt(world, field.place, STREAM, flags, target, most=MOST))
    finally:
        ended.set()
        feeding.join()
    release_all(world, field.place)
    return stage == target.stage


@pytest.mark.parametrize("stage", [pytest.param(stage, marks=() if stage in FAST else pytest.mark.slow) for stage in HIT])
def test_stream__killed_loses_and_repeats_nothing(tmp_path: Path, field: Field, prism_binary: str, stage: str) -> None:
    """A batch run delivers the rest of a killed stream, and late events."""
    chance = random.Random(stage)
    world = new_world(tmp_path / "world", field.place)
    witness = Witness.of(world)
    target = Target(stage, 1 if stage == STAGES[STREAM][0] else chance.randint(1, 2), chance.uniform(4.0, 12.0))
    hit = kill_while_fed(world, field, target, first_round(chance), prism_binary)
    publish(world, second_round(chance))
    finish(world, field.place)
    published = {message.message_id: Event.of(message) for message in witness.messages()}
    check(world, published)
    report(world, published)
    audit(world, field.place)
    assert hit or stage == ELSEWHERE, "no kill hit this stage: it is not tested"
