"""Deliver is killed, again and again and everywhere: nothing is lost, nothing is twice, and the audit says COMPLETE."""

from __future__ import annotations

import random
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.crash.crash_points import ELSEWHERE, STAGES
from tests.crash.expected_events import check, first_round, publish, report, second_round
from tests.crash.fork_server import DELIVER
from tests.crash.worlds import Field, Place, aim, attempt, audit, finish, left, new_world
from tests.support.delivery import World

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:The return_immediately flag")]

SEEDS = 4
"""For each stage."""
PAIRS = 12
"""Seeds with two processes at once."""
ANYWHERE = (*STAGES[DELIVER], ELSEWHERE)


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory, field: Field) -> Mapping[str, int]:
    """How often a run that nobody disturbs reaches each stage."""
    calm = new_world(tmp_path_factory.mktemp("calm") / "world", field.places[0])
    published = publish(calm, first_round(random.Random(-1)))
    counts = finish(calm, field.places[0]).told["counts"]
    check(calm, published)
    report(calm, published)
    audit(calm, field.places[0])
    return counts


def play(world: World, place: Place, seed: int, stage: str, field: Field, usual: Mapping[str, int]) -> None:
    """Kills a run or two, in the first round or among late events, and looks at what is there when all is delivered."""
    chance = random.Random(f"{stage} {seed}")
    published = publish(world, first_round(chance))
    if seed == SEEDS - 1:
        finish(world, place)
        published |= publish(world, second_round(chance))
    targets = [stage]
    if chance.random() < 0.4:
        targets.append(chance.choice(ANYWHERE))
    for target in targets:
        field.kill(world, place, DELIVER, world.deliver_flags(), aim(chance, usual, target))
        left(world, place)
    finish(world, place)
    check(world, published)
    if seed == SEEDS - 1:
        # Searches do not come again in other hours, so that each hour can be judged by itself.
        report(world, published)
        audit(world, place)


@pytest.mark.parametrize("stage", ANYWHERE)
def test_wherever_deliver_is_killed_nothing_is_lost_and_nothing_is_twice(
    tmp_path: Path, field: Field, usual: Mapping[str, int], stage: str
) -> None:
    failures = field.play_all(
        range(SEEDS), lambda seed, place: play(new_world(tmp_path / str(seed), place), place, seed, stage, field, usual)
    )
    assert not failures, "\n".join(failures)
    assert stage == ELSEWHERE or field.kills.hit(DELIVER, stage), "no kill hit this stage: it is not tested"


def test_two_processes_on_one_subscription_may_both_be_killed(tmp_path: Path, field: Field, usual: Mapping[str, int]) -> None:
    """Both work on the same buckets, and take turns at pulling and at the tables."""
    first, second = field.places[0], field.places[1]._replace(address=field.places[0].address, clock=field.places[0].clock)
    for seed in range(PAIRS):
        chance = random.Random(seed)
        world = new_world(tmp_path / str(seed), first)
        published = publish(world, first_round(chance))
        for number in range(2):
            with ThreadPoolExecutor(2) as threads:
                targets = [aim(chance, usual, chance.choice(ANYWHERE), latest=2.5) for _ in range(2)]
                runs = [
                    threads.submit(attempt, world, place, DELIVER, world.deliver_flags(), target, shared=True)
                    for place, target in zip((first, second), targets, strict=True)
                ]
            for run in runs:
                field.kills.count(DELIVER, run.result())
            left(world, first)
            if number == 0:
                published |= publish(world, second_round(chance))
        finish(world, first)
        check(world, published, raced=True)
