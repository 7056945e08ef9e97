"""Backfill and repair are killed over hours that were deleted, and ids that are missing: a second one brings them back."""

from __future__ import annotations

import random
import shutil
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pytest

from schemas.buckets import DEAD_LETTERS, Bucket, hour_of
from tests.crash.crash_points import ELSEWHERE, STAGES
from tests.crash.expected_events import HOURS, Event, Witness, check, first_round, kinds_of, publish, report, second_round
from tests.crash.fork_server import BACKFILL
from tests.crash.worlds import Field, Place, aim, audit, finish, new_world, run_well
from tests.support.archive import Archived, write_archive
from tests.support.delivery import World
from tests.support.pubsub import pull_now, subscriber

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:The return_immediately flag")]

ALL, SOME, IDS = "all hours", "some hours", "ids"
"""What is missing."""
ANYWHERE = (*STAGES[BACKFILL], ELSEWHERE)


class Loss(NamedTuple):
    """What was published, which hours are whole, and what brings back the rest."""

    published: Mapping[str, Event]
    whole: Sequence[datetime]
    flags: Sequence[str]


def lose(world: World, place: Place, missing: str, chance: random.Random) -> Loss:
    """Delivers and archives events, and then loses a part of what was delivered, or of what was to be."""
    witness = Witness.of(world)
    events = first_round(chance)
    if missing == SOME:
        # What several hours share may lie in either of them: the hours that are whole would change by right.
        events = [one for one in events if _number(one) == HOURS.index(hour_of(one.received_at))]
    publish(world, events)
    finish(world, place)
    lost, more = [], []
    if missing == IDS:
        lost = [one for one in second_round(chance) if one.event_id.startswith("late")]
        publish(world, lost)
        with subscriber(world.address) as client:
            taken = [one.ack_id for one in pull_now(client, world.subscription)]
            client.acknowledge(subscription=world.subscription, ack_ids=taken)
        ids = world.folder / "ids"
        ids.write_text("".join(f"{one.event_type}\t{one.event_id}\n" for one in lost))
        more = [f"--ids={ids}"]
    gone = {ALL: HOURS, SOME: HOURS[1:3], IDS: ()}[missing]
    for hour in gone:
        delete(world, hour, with_partitions=chance.random() < 0.5)
    messages = witness.messages()
    chance.shuffle(messages)
    archived = [Archived(one.data, dict(one.attributes), one.message_id, one.publish_time) for one in messages]
    for start in range(0, len(archived), 100):
        write_archive(world.folder / "archive", archived[start : start + 100], block_bytes=500)
    span = f"--hours={HOURS[0]:%Y-%m-%dT%H}..{HOURS[-1]:%Y-%m-%dT%H}"
    stores = [flag for flag in world.deliver_flags() if not flag.startswith("--subscription")]
    published = {one.message_id: Event.of(one) for one in messages}
    whole = [hour for hour in HOURS if hour not in gone] if missing == SOME else []
    return Loss(published, whole, [f"--archive={world.folder / 'archive'}", span, *stores, *more])


def _number(event: Event) -> int:
    """Of the hour that an event is named for."""
    return int(event.event_id.lstrip("abcdefghijklmnopqrstuvwxyz").partition("-")[0])


def delete(world: World, hour: datetime, with_partitions: bool) -> None:
    for stream in (*kinds_of(world), DEAD_LETTERS):
        shutil.rmtree(world.storage / Bucket(stream, hour).folder)
        if with_partitions:
            with duckdb.connect(world.tables) as db:
                db.execute(f"DELETE FROM {stream} WHERE date_trunc('hour', received_at) = ?", [hour])


def held(world: World, hours: Sequence[datetime]) -> Any:
    """The files of these hours, and the ids of their rows in tables."""
    streams = (*kinds_of(world), DEAD_LETTERS)
    folders = [world.storage / Bucket(stream, hour).folder for stream in streams for hour in hours]
    files = {file: file.read_bytes() for folder in folders for file in folder.glob("part-*")}
    rows = [row for stream in streams for row in world.query(f"SELECT message_id, received_at FROM {stream} ORDER BY ALL")]
    return files, [row for row in rows if hour_of(row[1]) in hours]


def play(world: World, place: Place, missing: str, stage: str, field: Field, usual: Mapping[str, int]) -> None:
    """Kills a backfill or two, and lets another one end."""
    chance = random.Random(f"{stage} {missing}")
    loss = lose(world, place, missing, chance)
    before = held(world, loss.whole)
    targets = [stage]
    if chance.random() < 0.3:
        targets.append(chance.choice((*STAGES[BACKFILL], ELSEWHERE)))
    for target in targets:
        field.kill(world, place, BACKFILL, loss.flags, aim(chance, usual, target, latest=1.0))
    run_well(world, place, BACKFILL, loss.flags)
    judge(world, place, loss)
    assert held(world, loss.whole) == before, "an hour that was whole has changed"


def judge(world: World, place: Place, loss: Loss) -> None:
    check(world, loss.published)
    report(world, loss.published)
    audit(world, place)


@pytest.mark.parametrize(("missing", "stages"), [(ALL, ANYWHERE[0::2]), (SOME, ANYWHERE[1::2]), (IDS, ANYWHERE[0::3])])
def test_wherever_backfill_is_killed_a_second_one_brings_back_what_was_lost(
    tmp_path: Path, field: Field, missing: str, stages: Sequence[str]
) -> None:
    calm = new_world(tmp_path / "calm", field.places[0])
    loss = lose(calm, field.places[0], missing, random.Random(-1))
    usual = run_well(calm, field.places[0], BACKFILL, loss.flags).told["counts"]
    judge(calm, field.places[0], loss)
    failures = field.play_all(
        stages, lambda stage, place: play(new_world(tmp_path / stage, place), place, missing, stage, field, usual)
    )
    assert not failures, "\n".join(failures)
    assert all(stage == ELSEWHERE or field.kills.hit(BACKFILL, stage) for stage in stages), (
        "no kill hit one of these stages: it is not tested"
    )
