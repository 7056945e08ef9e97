"""Backfill and repair are killed while they restore deleted hours or missing ids: a second run completes them."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pytest

from schemas.buckets import DEAD_LETTERS, Bucket, hour_of
from tests.crash.crash_points import ELSEWHERE, STAGES
from tests.crash.expected_events import HOURS, Event, Witness, check, first_round, publish, report, second_round, types_of
from tests.crash.fork_server import BACKFILL
from tests.crash.worlds import Field, Place, aim, audit, finish, new_world, run_to_end
from tests.support.archive import Archived, write_archive
from tests.support.delivery import World
from tests.support.pubsub import pull_now, subscriber

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore:The return_immediately flag")]

ALL, SOME, IDS = "all hours", "some hours", "ids"
"""Kinds of loss: all hours or some hours are deleted, or some ids were never delivered."""
ANYWHERE = (*STAGES[BACKFILL], ELSEWHERE)


class Loss(NamedTuple):
    """A loss, and how to repair it."""

    published: Mapping[str, Event]
    """All published events by message id."""
    whole: Sequence[datetime]
    """Hours that are complete, and must not change."""
    flags: Sequence[str]
    """Flags of the backfill that restores the rest."""


def lose(world: World, place: Place, missing: str, chance: random.Random) -> Loss:
    """Deliver and archive events, then delete hours, or drop messages before they are delivered."""
    witness = Witness.of(world)
    events = first_round(chance)
    if missing == SOME:
        # An id of several hours may be delivered in any of them, so complete hours could rightly change.
        events = [event for event in events if _number(event) == HOURS.index(hour_of(event.received_at))]
    publish(world, events)
    finish(world, place)
    lost, ids_flag = [], []
    if missing == IDS:
        lost = [event for event in second_round(chance) if event.event_id.startswith("late")]
        publish(world, lost)
        with subscriber(world.address) as client:
            ack_ids = [received.ack_id for received in pull_now(client, world.subscription)]
            client.acknowledge(subscription=world.subscription, ack_ids=ack_ids)
        ids = world.folder / "ids"
        ids.write_text("".join(f"{event.event_type}\t{event.event_id}\n" for event in lost))
        ids_flag = [f"--ids={ids}"]
    deleted = {ALL: HOURS, SOME: HOURS[1:3], IDS: ()}[missing]
    for hour in deleted:
        delete(world, hour, with_partitions=chance.random() < 0.5)
    messages = witness.messages()
    chance.shuffle(messages)
    archived = [
        Archived(message.data, dict(message.attributes), message.message_id, message.publish_time) for message in messages
    ]
    for start in range(0, len(archived), 100):
        write_archive(world.folder / "archive", archived[start : start + 100], block_bytes=500)
    span = f"--hours={HOURS[0]:%Y-%m-%dT%H}..{HOURS[-1]:%Y-%m-%dT%H}"
    stores = [flag for flag in world.deliver_flags() if not flag.startswith("--subscription")]
    published = {message.message_id: Event.of(message) for message in messages}
    whole = [hour for hour in HOURS if hour not in deleted] if missing == SOME else []
    return Loss(published, whole, [f"--archive={world.folder / 'archive'}", span, *stores, *ids_flag])


def _number(event: Event) -> int:
    """Return the number of the hour in an event's id."""
    return int(event.event_id.lstrip("abcdefghijklmnopqrstuvwxyz").partition("-")[0])


def delete(world: World, hour: datetime, with_partitions: bool) -> None:
    for stream in (*types_of(world), DEAD_LETTERS):
        shutil.rmtree(world.storage / Bucket(stream, hour).folder)
        if with_partitions:
            with duckdb.connect(world.tables) as db:
                db.execute(f"DELETE FROM {stream} WHERE date_trunc('hour', received_at) = ?", [hour])


def stored(world: World, hours: Sequence[datetime]) -> Any:
    """Return the data files of these hours, and the message ids of their rows in tables."""
    streams = (*types_of(world), DEAD_LETTERS)
    folders = [world.storage / Bucket(stream, hour).folder for stream in streams for hour in hours]
    files = {file: file.read_bytes() for folder in folders for file in folder.glob("part-*")}
    rows = [row for stream in streams for row in world.query(f"SELECT message_id, received_at FROM {stream} ORDER BY ALL")]
    return files, [row for row in rows if hour_of(row[1]) in hours]


def judge(world: World, place: Place, loss: Loss) -> None:
    """Check outcomes and verdicts."""
    check(world, loss.published)
    report(world, loss.published)
    audit(world, place)


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory, places: list[Place]) -> Callable[[str], Mapping[str, int]]:
    """Count how often an undisturbed backfill reaches each stage, for each kind of loss."""

    @cache
    def count(missing: str) -> Mapping[str, int]:
        calm = new_world(tmp_path_factory.mktemp("calm") / "world", places[0])
        loss = lose(calm, places[0], missing, random.Random(-1))
        counts = run_to_end(calm, places[0], BACKFILL, loss.flags).report["counts"]
        judge(calm, places[0], loss)
        return counts

    return count


def losses_and_stages() -> Iterator[Any]:
    """Yield each kind of loss with some of the stages, so that together they hit each stage.

    Every third combination is fast.
    """
    for missing, stages in ((ALL, ANYWHERE[0::2]), (SOME, ANYWHERE[1::2]), (IDS, ANYWHERE[0::3])):
        for number, stage in enumerate(stages):
            yield pytest.param(missing, stage, marks=() if number % 3 == 1 else pytest.mark.slow)


@pytest.mark.parametrize(("missing", "stage"), list(losses_and_stages()))
def test_backfill__killed_is_repeated_without_harm(
    tmp_path: Path, field: Field, usual: Callable[[str], Mapping[str, int]], missing: str, stage: str
) -> None:
    """One or two backfills are killed, and another one restores everything."""
    chance = random.Random(f"{stage} {missing}")
    place, world = field.place, new_world(tmp_path / "world", field.place)
    loss = lose(world, place, missing, chance)
    before = stored(world, loss.whole)
    targets = [stage]
    if chance.random() < 0.3:
        targets.append(chance.choice((*STAGES[BACKFILL], ELSEWHERE)))
    hits = [
        field.kill(world, place, BACKFILL, loss.flags, aim(chance, usual(missing), target, latest=1.0)) for target in targets
    ]
    run_to_end(world, place, BACKFILL, loss.flags)
    judge(world, place, loss)
    assert stored(world, loss.whole) == before, "a complete hour has changed"
    assert hits[0] or stage == ELSEWHERE, "no kill hit this stage: it is not tested"
