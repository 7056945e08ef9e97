"""Fixtures and settings for all tests."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

from tests.support.clock import CLOCK, use_clock
from tests.support.go_tools import MODULES, find_or_build
from transforms import clocks

pytest_plugins = [
    "tests.crash.kill_report",
    "tests.support.pubsub",
    "tests.support.delivery",
    "tests.support.prism",
    "tests.support.fake_gcs_server",
    "tests.support.stores",
]

# No deadline: the speed of a machine says nothing about the code. In CI a commit always gets the same examples.
settings.register_profile("event-delivery", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("event-delivery")


@pytest.fixture(scope="session", autouse=True)
def pipelines_on_the_clock() -> Iterator[None]:
    """Let pipelines in this process read the tests' clock."""
    use_clock(time.monotonic())
    yield
    vars(clocks)["datetime"] = datetime


@pytest.fixture(autouse=True)
def clock_at_begin() -> None:
    CLOCK.restart()


WORKERS_PER_CORE, MOST_WORKERS = 2, 8
"""Processes of `pytest -n auto`: a test spends half of its time waiting for a broker, a runner or a disk."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    return min(WORKERS_PER_CORE * (os.cpu_count() or 1), MOST_WORKERS)


class Groups(LoadScopeScheduling):  # type: ignore[misc]
    """Distribute tests one by one, but those that share a costly set-up to the same process."""

    def _split_scope(self, nodeid: str) -> str:
        if nodeid.endswith("[emulator]"):
            return "emulator"
        if nodeid.startswith("tests/crash/test_backfill.py"):
            # The name up to and including the first parameter, the kind of loss.
            return nodeid.partition("-")[0]
        return nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Groups | None:
    # pytest-xdist's own `loadgroup` does not group with pytest 9: it appends the group to a name that pytest no longer reads.
    return Groups(config, log) if config.getvalue("dist") == "loadscope" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run long tests first, so that no process works alone on the last of them."""
    items.sort(key=lambda item: [item.get_closest_marker(name) is None for name in ("slow", "integration")])


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build the Go programs that the collected tests need, outside any test's time limit."""
    wanted: set[object] = set()
    for item in session.items:
        if isinstance(item, pytest.Function):
            # A test may request a fixture by argument, or by a parameter with the fixture's name.
            parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
            wanted.update(item.fixturenames, (value for value in parameters if isinstance(value, str)))
    for fixture, module in MODULES.items():
        if fixture in wanted:
            find_or_build(module)
