"""Replay is killed: after another replay each message has one outcome, counters balance, and all verdicts are COMPLETE."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.crash.crash_points import ELSEWHERE, STAGES
from tests.crash.expected_events import HOURS, NEW_TYPE, Event, Witness, check, first_round, publish, report, songs
from tests.crash.fork_server import DELIVER, REPLAY
from tests.crash.worlds import Field, Place, Target, aim, audit, finish, new_world, release_all, run_to_end
from tests.support.delivery import World

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore:The return_immediately flag")]

SEEDS = 2
"""Runs for each stage, each with its own seed: one in `make test`, the other in `make test-slow`."""
CONTRACT = {"type": "record", "name": NEW_TYPE, "fields": [{"name": "song", "type": "int"}]}


def flags(world: World) -> list[str]:
    reasons = [f"--reason={reason}" for reason in ("unknown_type", "not_json")]
    hours = f"--hours={HOURS[0]:%Y-%m-%dT%H}..{HOURS[-1]:%Y-%m-%dT%H}"
    return [f"--storage={world.storage}", f"--topic={world.topic}", hours, *reasons]


def refuse(world: World, place: Place, chance: random.Random) -> None:
    """Deliver dead letters, some of which can be delivered now: their type has got a contract since."""
    publish(world, [*first_round(chance), *songs(chance)])
    finish(world, place)
    contract = world.contracts / NEW_TYPE / "v1.avsc"
    contract.parent.mkdir()
    contract.write_text(json.dumps(CONTRACT))


def replay_and_check(world: World, place: Place, witness: Witness) -> Mapping[str, int]:
    """Replay, deliver and check everything. Returns how often replay reached each stage."""
    counts = run_to_end(world, place, REPLAY, flags(world)).report["counts"]
    finish(world, place)
    published = {message.message_id: Event.of(message) for message in witness.messages()}
    check(world, published)
    # A dead letter that was never replayed appears as the original message.
    expected_ids = {event.event_id for event in published.values() if event.event_type == NEW_TYPE}
    assert {row["event_id"] for row in world.rows(NEW_TYPE)} == expected_ids, "dead letters were not replayed"
    report(world, published)
    audit(world, place, ("search_made", NEW_TYPE))
    return counts


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory, places: list[Place]) -> Mapping[str, int]:
    """Count how often an undisturbed replay reaches each stage."""
    calm = new_world(tmp_path_factory.mktemp("calm") / "world", places[0])
    witness = Witness.of(calm)
    refuse(calm, places[0], random.Random(-1))
    return replay_and_check(calm, places[0], witness)


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
            release_all(world, place)
    replay_and_check(world, place, witness)
    assert hits[0] or stage == ELSEWHERE, "no kill hit this stage: it is not tested"
