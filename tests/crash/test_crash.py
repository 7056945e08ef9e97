"""Deliver is killed, again and again and everywhere: nothing is lost, nothing is twice, and the audit says COMPLETE."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

import pytest

from local.pubsub import Broker
from tests.crash.events import HOURS, Event, check, first_round, publish, report, second_round
from tests.crash.kills import Kills, kills_of
from tests.crash.lane import Ended, Lane
from tests.crash.points import ELSEWHERE, STAGES
from tests.support.delivery import SEARCH, TAP, World, make_world
from tests.support.pubsub import pull_now, subscriber

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:The return_immediately flag")]

SEEDS = 5
"""For each stage."""
PAIRS = 14
"""Seeds with two processes at once."""
LANES = 3
"""Side by side: a run waits for Pub/Sub and the disk for a part of its time."""
LEASES_END = 700.0
"""Seconds: longer than any lease."""


class Skipping:
    """The broker's clock, which can be put forward for a moment: leases of the dead end at once."""

    ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


class Place(NamedTuple):
    """Where a seed is played: nobody else speaks to its broker meanwhile."""

    lane: Lane
    address: str
    clock: Skipping


@dataclass
class Field:
    """All places, how often a run that is left alone reaches each stage, and the kills of this session."""

    places: list[Place]
    usual: Mapping[str, int]
    kills: Kills

    def play_all(self, seeds: Sequence[int], play: Callable[[int, Place], None]) -> list[str]:
        """Plays each seed at some place, and tells of those that failed."""
        free: SimpleQueue[Place] = SimpleQueue()
        for place in self.places:
            free.put(place)

        def one(seed: int) -> str | None:
            place = free.get()
            try:
                play(seed, place)
            except Exception as error:  # noqa: BLE001 - all seeds are played, to tell of all that fail
                return f"seed {seed}: {type(error).__name__}: {error}"
            finally:
                free.put(place)
            return None

        with ThreadPoolExecutor(len(self.places)) as threads:
            return [failure for failure in threads.map(one, seeds) if failure]


@contextmanager
def places(number: int) -> Iterator[list[Place]]:
    with ExitStack() as stack:
        clocks = [Skipping() for _ in range(number)]
        yield [Place(stack.enter_context(Lane()), stack.enter_context(Broker(clock=one)).address, one) for one in clocks]


def new_world(folder: Path, place: Place) -> World:
    folder.mkdir(parents=True)
    return make_world(folder, place.address, {"search_made": SEARCH, "tap": TAP})


def left(world: World, place: Place) -> int:
    """How many messages are not acknowledged; all of them can be taken then."""
    place.clock.ahead = LEASES_END
    with subscriber(world.address) as client:
        found = pull_now(client, world.subscription)
        if found:
            ids = [one.ack_id for one in found]
            client.modify_ack_deadline(subscription=world.subscription, ack_ids=ids, ack_deadline_seconds=0)
    place.clock.ahead = 0.0
    return len(found)


def attempt(world: World, place: Place, stage: str | None, nth: int, after: float, shared: bool = False) -> Ended:
    """A run that is killed at a stage's n-th time; or, for ELSEWHERE, so many seconds after its start."""
    timers: list[threading.Timer] = []

    def started(process: int) -> None:
        if stage == ELSEWHERE:
            timers.append(threading.Timer(after, _kill, [process]))
            timers[0].start()

    named = None if stage == ELSEWHERE else stage
    ended = place.lane.run("deliver", world.deliver_flags(), world.folder, world.address, named, nth, shared, started)
    for timer in timers:
        timer.cancel()
    return ended


def _kill(process: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def play(world: World, place: Place, seed: int, stage: str, field: Field) -> None:
    """Kills a run or two, in the first round or among late events, and looks at what is there when all is delivered."""
    chance = random.Random(f"{stage} {seed}")
    published = publish(world, first_round(chance))
    if seed == SEEDS - 1:
        finish(world, place)
        published |= publish(world, second_round(chance))
    targets = [stage]
    if chance.random() < 0.4:
        targets.append(chance.choice((*STAGES, ELSEWHERE)))
    for target in targets:
        nth = chance.randint(1, field.usual.get(target, 1))
        field.kills.count(attempt(world, place, target, nth, chance.uniform(0.2, 2.0)), by_chance=target == ELSEWHERE)
        left(world, place)
    finish(world, place)
    check(world, published)
    if seed in (0, SEEDS - 1):
        audit(world, place, published)


def finish(world: World, place: Place) -> Ended:
    ended = attempt(world, place, None, 1, 0.0)
    assert ended.status == 0, ended.log
    assert left(world, place) == 0, "a run that ended well has left messages"
    return ended


def audit(world: World, place: Place, published: Mapping[str, Event]) -> None:
    """Searches do not come again in other hours, so that each hour can be judged by itself."""
    report(world, published)
    flags = [f"--subscription={world.audit_subscription}", f"--buckets={world.buckets}", f"--tables={world.tables}"]
    ended = place.lane.run("audit", [*flags, f"--verdicts={world.verdicts}"], world.folder, world.address)
    assert world.verdicts.exists(), ended.log
    rows = [row for row in json.loads(world.verdicts.read_text()) if row["event_type"] == "search_made"]
    assert [row["status"] for row in rows] == ["COMPLETE"] * len(HOURS), rows


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Field]:
    """Has seen one run that nobody disturbed."""
    with places(LANES) as made:
        calm = new_world(tmp_path_factory.mktemp("calm") / "world", made[0])
        published = publish(calm, first_round(random.Random(-1)))
        usual = finish(calm, made[0]).told["counts"]
        check(calm, published)
        audit(calm, made[0], published)
        yield Field(made, usual, kills_of(request.config))


@pytest.mark.parametrize("stage", [*STAGES, ELSEWHERE])
def test_wherever_deliver_is_killed_nothing_is_lost_and_nothing_is_twice(tmp_path: Path, field: Field, stage: str) -> None:
    failures = field.play_all(
        range(SEEDS), lambda seed, place: play(new_world(tmp_path / str(seed), place), place, seed, stage, field)
    )
    assert not failures, "\n".join(failures)
    assert field.kills.by_stage[stage], "no kill hit this stage: it is not tested"


def test_two_processes_on_one_subscription_may_both_be_killed(tmp_path: Path, field: Field) -> None:
    """Both work on the same buckets, and take turns at pulling and at the tables."""
    first, second = field.places[0], field.places[1]._replace(address=field.places[0].address, clock=field.places[0].clock)
    for seed in range(PAIRS):
        chance = random.Random(seed)
        world = new_world(tmp_path / str(seed), first)
        published = publish(world, first_round(chance))
        for _ in range(2):
            with ThreadPoolExecutor(2) as threads:
                targets = [chance.choice((*STAGES, ELSEWHERE)) for _ in range(2)]
                runs = [
                    threads.submit(
                        attempt,
                        world,
                        place,
                        target,
                        chance.randint(1, field.usual.get(target, 1)),
                        chance.uniform(0.5, 2.5),
                        True,
                    )
                    for place, target in zip((first, second), targets, strict=True)
                ]
            for run, target in zip(runs, targets, strict=True):
                field.kills.count(run.result(), by_chance=target == ELSEWHERE)
            left(world, first)
            if not _:
                published |= publish(world, second_round(chance))
        finish(world, first)
        check(world, published)
