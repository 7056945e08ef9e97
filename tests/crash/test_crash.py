"""Deliver is killed at every stage: nothing is lost, nothing is delivered twice, and all verdicts are COMPLETE."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.crash.crash_points import ELSEWHERE, STAGES
from tests.crash.expected_events import check, first_round, publish, report, second_round
from tests.crash.fork_server import DELIVER
from tests.crash.worlds import Field, Place, Target, aim, attempt, audit, finish, new_world, release_all

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore:The return_immediately flag")]

SEEDS = 4
"""Runs for each stage, each with its own seed: one in `make test`, the others in `make test-slow`."""
PAIRS = 12
"""Runs with two processes at once."""
FAST_PAIRS = 2
"""Those of them in `make test`."""
ANYWHERE = (*STAGES[DELIVER], ELSEWHERE)


def stages_and_seeds() -> Iterator[Any]:
    """Yield each stage with each seed. The fast ones are spread over all seeds, since the last seed tests late events."""
    for number, stage in enumerate(ANYWHERE):
        for seed in range(SEEDS):
            yield pytest.param(stage, seed, marks=() if seed == number % SEEDS else pytest.mark.slow)


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory, places: list[Place]) -> Mapping[str, int]:
    """Count how often an undisturbed run reaches each stage."""
    calm = new_world(tmp_path_factory.mktemp("calm") / "world", places[0])
    published = publish(calm, first_round(random.Random(-1)))
    counts = finish(calm, places[0]).report["counts"]
    check(calm, published)
    report(calm, published)
    audit(calm, places[0])
    return counts


def play(folder: Path, field: Field, chance: random.Random, targets: Sequence[Target], late: bool) -> bool:
    """Kill runs at the targets, complete the delivery, and check the stores.

    Args:
        late: whether the kills hit the delivery of late events, after a complete first one

    Returns:
        whether the first target was hit
    """
    place = field.place
    world = new_world(folder, place)
    published = publish(world, first_round(chance))
    if late:
        finish(world, place)
        published |= publish(world, second_round(chance))
    hits = []
    for target in targets:
        hits.append(field.kill(world, place, DELIVER, world.deliver_flags(), target))
        release_all(world, place)
    finish(world, place)
    check(world, published)
    if late:
        # Searches have no duplicates in other hours, so each hour can be audited by itself.
        report(world, published)
        audit(world, place)
    return hits[0]


@pytest.mark.parametrize(("stage", "seed"), list(stages_and_seeds()))
def test_deliver__killed_loses_and_repeats_nothing(
    tmp_path: Path, field: Field, usual: Mapping[str, int], stage: str, seed: int
) -> None:
    chance = random.Random(f"{stage} {seed}")
    targets = [aim(chance, usual, stage)]
    if chance.random() < 0.4:
        targets.append(aim(chance, usual, chance.choice(ANYWHERE)))
    hit = play(tmp_path / "world", field, chance, targets, late=seed == SEEDS - 1)
    if not hit and stage != ELSEWHERE:
        # This run reached the stage less often than usual. A first run reaches it at least once.
        hit = play(tmp_path / "again", field, chance, [Target(stage)], late=False)
    assert hit or stage == ELSEWHERE, "no kill hit this stage: it is not tested"


@pytest.mark.parametrize(
    "seed", [pytest.param(seed, marks=() if seed < FAST_PAIRS else pytest.mark.slow) for seed in range(PAIRS)]
)
def test_deliver__two_processes_killed(tmp_path: Path, field: Field, usual: Mapping[str, int], seed: int) -> None:
    """Two processes share a subscription and buckets, and both are killed. They take turns at pulling and at the tables."""
    first = field.place
    second = field.places[1]._replace(address=first.address, clock=first.clock)
    chance = random.Random(seed)
    world = new_world(tmp_path / "world", first)
    published = publish(world, first_round(chance))
    for number in range(2):
        with ThreadPoolExecutor(2) as threads:
            targets = [aim(chance, usual, chance.choice(ANYWHERE), latest=2.5) for _ in range(2)]
            runs = [
                threads.submit(attempt, world, place, DELIVER, world.deliver_flags(), target, shared=True)
                for place, target in zip((first, second), targets, strict=True)
            ]
        for run in runs:
            field.kills.add(DELIVER, run.result())
        release_all(world, first)
        if number == 0:
            published |= publish(world, second_round(chance))
    finish(world, first)
    check(world, published, raced=True)
