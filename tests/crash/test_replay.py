"""Replay is killed: each message has one outcome after another replay, the counters balance, and the audit says COMPLETE."""

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

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:The return_immediately flag")]

SEEDS = 2
"""For each stage."""
CONTRACT = {"type": "record", "name": MENDED, "fields": [{"name": "song", "type": "int"}]}


def flags(world: World) -> list[str]:
    reasons = [f"--reason={reason}" for reason in ("unknown_type", "not_json")]
    hours = f"--hours={HOURS[0]:%Y-%m-%dT%H}..{HOURS[-1]:%Y-%m-%dT%H}"
    return [f"--storage={world.storage}", f"--topic={world.topic}", hours, *reasons]


def refuse(world: World, place: Place, chance: random.Random) -> None:
    """Has dead letters, of which some would be delivered by now: their type has got a contract since."""
    publish(world, [*first_round(chance), *songs(chance)])
    finish(world, place)
    contract = world.contracts / MENDED / "v1.avsc"
    contract.parent.mkdir()
    contract.write_text(json.dumps(CONTRACT))


def end_well(world: World, place: Place, witness: Witness) -> Mapping[str, int]:
    """Replays, delivers and judges it all. Returns how often replay reached each stage."""
    counts = run_well(world, place, REPLAY, flags(world)).told["counts"]
    finish(world, place)
    published = {one.message_id: Event.of(one) for one in witness.messages()}
    check(world, published)
    # A dead letter that no replay has published is known by the message that was refused.
    mended = {one.event_id for one in published.values() if one.event_type == MENDED}
    assert {row["event_id"] for row in world.rows(MENDED)} == mended, "dead letters were not replayed"
    report(world, published)
    audit(world, place, ("search_made", MENDED))
    return counts


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory, field: Field) -> Mapping[str, int]:
    """How often a replay that nobody disturbs reaches each stage."""
    place = field.places[0]
    calm = new_world(tmp_path_factory.mktemp("calm") / "world", place)
    witness = Witness.of(calm)
    refuse(calm, place, random.Random(-1))
    return end_well(calm, place, witness)


def play(world: World, place: Place, seed: int, stage: str, field: Field, usual: Mapping[str, int]) -> None:
    """Kills a replay or two; deliver may meet what each has published, and be killed over it."""
    chance = random.Random(f"{stage} {seed}")
    witness = Witness.of(world)
    refuse(world, place, chance)
    targets = [stage]
    if chance.random() < 0.4:
        targets.append(chance.choice((*STAGES[REPLAY], ELSEWHERE)))
    for target in targets:
        field.kill(world, place, REPLAY, flags(world), aim(chance, usual, target, latest=0.5))
        if chance.random() < 0.4:
            field.kill(world, place, DELIVER, world.deliver_flags(), Target(chance.choice(STAGES[DELIVER])))
            left(world, place)
    end_well(world, place, witness)


@pytest.mark.parametrize("stage", [*STAGES[REPLAY], ELSEWHERE])
def test_wherever_replay_is_killed_a_second_one_brings_each_dead_letter_once(
    tmp_path: Path, field: Field, usual: Mapping[str, int], stage: str
) -> None:
    failures = field.play_all(
        range(SEEDS), lambda seed, place: play(new_world(tmp_path / str(seed), place), place, seed, stage, field, usual)
    )
    assert not failures, "\n".join(failures)
    assert stage == ELSEWHERE or field.kills.hit(REPLAY, stage), "no kill hit this stage: it is not tested"
