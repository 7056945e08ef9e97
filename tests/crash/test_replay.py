"""Replay is killed: after another replay each message has one outcome, counters balance, and all verdicts are COMPLETE."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.crash.crash_points import ELSEWHERE, STAGES
from tests.crash.expected_events import HOURS, MENDED, Event, Witness, check, first_round, publish, report, songs
from tests.crash.fork_server import DELIVER, REPLAY
from tests.crash.worlds import Field, Place, Target, aim, audit, finish, left, new_world, run_well
from tests.support.delivery import World

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore:The return_immediately flag")]

SEEDS = 2
"""Runs for each stage, each with its own seed: one in `make test`, the other in `make test-slow`."""
CONTRACT = {"type": "record", "name": MENDED, "fields": [{"name": "song", "type": "int"}]}


def flags(world: World) -> list[str]:
    reasons = [f"--reason={reason}" for reason in ("unknown_type", "not_json")]
    hours = f"--hours={HOURS[0]:%Y-%m-%dT%H}..{HOURS[-1]:%Y-%m-%dT%H}"
    return [f"--storage={world.storage}", f"--topic={world.topic}", hours, *reasons]


def refuse(world: World, place: Place, chance: random.Random) -> None:
    """Deliver dead letters, some of which can be delivered now: their type has got a contract since."""
    publish(world, [*first_round(chance), *songs(chance)])
    finish(world, place)
    contract = world.contracts / MENDED / "v1.avsc"
    contract.parent.mkdir()
    contract.write_text(json.dumps(CONTRACT))


def end_well(world: World, place: Place, witness: Witness) -> Mapping[str, int]:
    """Replay, deliver and check everything. Returns how often replay reached each stage."""
    counts = run_well(world, place, REPLAY, flags(world)).told["counts"]
    finish(world, place)
    published = {one.message_id: Event.of(one) for one in witness.messages()}
    check(world, published)
    # A dead letter that was never replayed appears as the original message.
    mended = {one.event_id for one in published.values() if one.event_type == MENDED}
    assert {row["event_id"] for row in world.rows(MENDED)} == mended, "dead letters were not replayed"
    report(world, published)
    audit(world, place, ("search_made", MENDED))
    return counts


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory, places: list[Place]) -> Mapping[str, int]:
    """Count how often an undisturbed replay reaches each stage."""
    calm = new_world(tmp_path_factory.mktemp("calm") / "world", places[0])
    witness = Witness.of(calm)
    refuse(calm, places[0], random.Random(-1))
    return end_well(calm, places[0], witness)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, SEEDS))])
@pytest.mark.parametrize("stage", [*STAGES[REPLAY], ELSEWHERE])
def test_replay__killed_is_repeated_without_harm(
    tmp_path: Path, field: Field, usual: Mapping[str, int], stage: str, seed: int
) -> None:
    """One or two replays are killed; deliver may handle the messages of each, and be killed too."""
    chance = random.Random(f"{stage} {seed}")
    place, world = field.place, new_world(tmp_path / "world", field.place)
    witness = Witness.of(world)
    refuse(world, place, chance)
    targets = [stage]
    if chance.random() < 0.4:
        targets.append(chance.choice((*STAGES[REPLAY], ELSEWHERE)))
    hits = []
    for target in targets:
        hits.append(field.kill(world, place, REPLAY, flags(world), aim(chance, usual, target, latest=0.5)))
        if chance.random() < 0.4:
            field.kill(world, place, DELIVER, world.deliver_flags(), Target(chance.choice(STAGES[DELIVER])))
            left(world, place)
    end_well(world, place, witness)
    assert hits[0] or stage == ELSEWHERE, "no kill hit this stage: it is not tested"
