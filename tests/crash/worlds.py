"""Places with a broker and a lane each, and worlds on them in which commands are killed."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from local.pubsub.broker import Broker
from tests.crash.crash_points import ELSEWHERE
from tests.crash.expected_events import HOURS
from tests.crash.fork_server import AUDIT, DELIVER, Ended, Lane
from tests.crash.kill_report import Kills
from tests.support.clock import CLOCK
from tests.support.delivery import SEARCH, TAP, World, make_world
from tests.support.pubsub import pull_now, subscriber

LEASES_END = 700.0
"""Seconds, more than any lease lasts."""


class AdjustableClock:
    """A broker's clock that can be put forward briefly, so that leases of killed processes expire at once."""

    ahead = 0.0

    def __call__(self) -> float:
        return CLOCK.seconds() + self.ahead


class Place(NamedTuple):
    """A lane and a broker that one test uses alone."""

    lane: Lane
    address: str
    clock: AdjustableClock


class Target(NamedTuple):
    """A point at which to kill a process."""

    stage: str | None = None
    """None: no kill. ELSEWHERE: a kill by time."""
    nth: int = 1
    """The visit of the stage that is killed."""
    after: float = 0.0
    """For ELSEWHERE: seconds after the start."""


NOWHERE = Target()


@dataclass
class Field:
    """The places of this process, and the kills of one test."""

    places: list[Place]
    kills: Kills

    @property
    def place(self) -> Place:
        return self.places[0]

    def kill(self, world: World, place: Place, command: str, flags: Sequence[str], target: Target) -> bool:
        """Run a command that may be killed at the target. Returns whether it was killed there; otherwise it was completed."""
        return self.kills.add(command, attempt(world, place, command, flags, target)) == target.stage


@contextmanager
def open_places(number: int) -> Iterator[list[Place]]:
    with ExitStack() as stack:
        clocks = [AdjustableClock() for _ in range(number)]
        yield [Place(stack.enter_context(Lane()), stack.enter_context(Broker(clock=clock)).address, clock) for clock in clocks]


def new_world(folder: Path, place: Place) -> World:
    folder.mkdir(parents=True)
    return make_world(folder, place.address, {"search_made": SEARCH, "tap": TAP})


def release_all(world: World, place: Place) -> int:
    """Return the number of unacknowledged messages, and release all of them."""
    place.clock.ahead = LEASES_END
    with subscriber(world.address) as client:
        found = pull_now(client, world.subscription)
        if found:
            ids = [received.ack_id for received in found]
            client.modify_ack_deadline(subscription=world.subscription, ack_ids=ids, ack_deadline_seconds=0)
    place.clock.ahead = 0.0
    return len(found)


def aim(chance: random.Random, usual: Mapping[str, int], stage: str, latest: float = 2.0) -> Target:
    """Choose a visit of the stage that the run will reach.

    It is one of the first three quarters of the visits in an undisturbed run, since another run may reach the stage less often.

    Args:
        latest: for ELSEWHERE, the latest time in seconds
    """
    return Target(stage, chance.randint(1, max(1, usual.get(stage, 1) * 3 // 4)), chance.uniform(0.2, latest))


def attempt(
    world: World,
    place: Place,
    command: str,
    flags: Sequence[str],
    target: Target = NOWHERE,
    shared: bool = False,
    most: float | None = None,
) -> Ended:
    """Run a command that is killed at the target, or after `most` seconds."""
    timers: list[threading.Timer] = []
    after = target.after if target.stage == ELSEWHERE else most

    def started(process: int) -> None:
        if after is not None:
            timers.append(threading.Timer(after, _kill, [process]))
            timers[0].start()

    stage = None if target.stage == ELSEWHERE else target.stage
    ended = place.lane.run(command, flags, world.folder, world.address, stage, target.nth, shared, started)
    for timer in timers:
        timer.cancel()
    return ended


def _kill(process: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def run_to_end(world: World, place: Place, command: str, flags: Sequence[str]) -> Ended:
    """Run a command that must succeed."""
    ended = attempt(world, place, command, flags)
    assert ended.status == 0, ended.log
    return ended


def finish(world: World, place: Place) -> Ended:
    """Deliver all messages."""
    release_all(world, place)
    ended = run_to_end(world, place, DELIVER, world.deliver_flags())
    assert release_all(world, place) == 0, "a completed run has left messages"
    return ended


def audit(world: World, place: Place, kinds: Sequence[str] = ("search_made",)) -> None:
    """Check that each hour of these types is COMPLETE. The published events must have been reported before."""
    flags = [f"--subscription={world.audit_subscription}", f"--storage={world.storage}", f"--tables={world.tables}"]
    ended = place.lane.run(AUDIT, [*flags, f"--verdicts={world.verdicts}"], world.folder, world.address)
    assert world.verdicts.exists(), ended.log
    rows = [row for row in json.loads(world.verdicts.read_text()) if row["event_type"] in kinds]
    assert [row["status"] for row in rows] == ["COMPLETE"] * len(HOURS) * len(kinds), rows
