"""A stream on Prism is killed while events come: what runs after it brings each message to one outcome."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.crash.crash_points import ELSEWHERE, STAGES
from tests.crash.expected_events import Event, Witness, check, first_round, publish, report, second_round
from tests.crash.fork_server import STREAM
from tests.crash.worlds import Field, Place, Target, attempt, audit, finish, left, new_world
from tests.support.delivery import World

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:The return_immediately flag")]

HIT = (*STAGES[STREAM][::3], ELSEWHERE)
"""Every third stage: each stream takes seconds to begin."""
MOST = 60.0
"""Seconds after which a stream is killed wherever it is."""
ROUNDS, PAUSE = 6, 3.0
"""Events come in so many goes, so many seconds apart: for several files and manifests of an hour, and loads of it."""


def feed(world: World, events: Sequence[Event], ended: threading.Event) -> None:
    """Publishes the events while a stream runs; what is left when it has ended, at once."""
    size = -(-len(events) // ROUNDS)
    for start in range(0, len(events), size):
        publish(world, events[start : start + size])
        ended.wait(PAUSE)


def killed(world: World, place: Place, field: Field, target: Target, events: Sequence[Event], prism: str) -> None:
    flags = [*world.deliver_flags(), "--mode=stream", f"--prism_location={prism}", "--flush_every=1s"]
    ended = threading.Event()
    feeding = threading.Thread(target=feed, args=(world, events, ended))
    feeding.start()
    field.kills.count(STREAM, attempt(world, place, STREAM, flags, target, most=MOST))
    ended.set()
    feeding.join()
    left(world, place)


def play(world: World, place: Place, stage: str, field: Field, prism: str) -> None:
    """Kills a stream while it is fed, publishes late events, and lets a run that ends take what is there."""
    chance = random.Random(stage)
    witness = Witness.of(world)
    target = Target(stage, 1 if stage == STAGES[STREAM][0] else chance.randint(1, 2), chance.uniform(4.0, 12.0))
    killed(world, place, field, target, first_round(chance), prism)
    publish(world, second_round(chance))
    finish(world, place)
    published = {one.message_id: Event.of(one) for one in witness.messages()}
    check(world, published)
    report(world, published)
    audit(world, place)


def test_wherever_a_stream_is_killed_nothing_is_lost_and_nothing_is_twice(
    tmp_path: Path, field: Field, prism_binary: str
) -> None:
    failures = field.play_all(
        HIT, lambda stage, place: play(new_world(tmp_path / stage, place), place, stage, field, prism_binary)
    )
    assert not failures, "\n".join(failures)
    assert all(stage == ELSEWHERE or field.kills.hit(STREAM, stage) for stage in HIT), (
        "no kill hit one of these stages: it is not tested"
    )
