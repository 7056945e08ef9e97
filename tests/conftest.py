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

# An example may take any time: how fast a machine is says nothing about the code.
settings.register_profile("event-delivery", deadline=None)
settings.load_profile("event-delivery")


@pytest.fixture(scope="session", autouse=True)
def pipelines_on_the_clock() -> Iterator[None]:
    """Pipelines in this process read the tests' clock."""
    use_clock(time.monotonic())
    yield
    vars(clocks)["datetime"] = datetime


@pytest.fixture(autouse=True)
def clock_at_begin() -> None:
    CLOCK.restart()


WORKERS_PER_CORE, MOST_WORKERS = 2, 8
"""Of `pytest -n auto`: half of a test's time is spent waiting for a broker, an engine or a disk."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    return min(WORKERS_PER_CORE * (os.cpu_count() or 1), MOST_WORKERS)


class Groups(LoadScopeScheduling):  # type: ignore[misc]
    """Distributes tests one by one, but those with a costly start in common to one process."""

    def _split_scope(self, nodeid: str) -> str:
        if nodeid.endswith("[emulator]"):
            return "emulator"
        if nodeid.startswith("tests/crash/test_backfill.py"):
            # The name up to the first parameter, which is the kind of loss.
            return nodeid.partition("-")[0]
        return nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Groups | None:
    # Its own loadgroup does not group with pytest 9: it appends the group to a name that pytest does not read any more.
    return Groups(config, log) if config.getvalue("dist") == "loadscope" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the long tests, so that no process works on the last of them alone."""
    items.sort(key=lambda item: [item.get_closest_marker(name) is None for name in ("slow", "integration")])


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build the Go programs that collected tests need, where no test's time limit runs."""
    wanted: set[object] = set()
    for item in session.items:
        if isinstance(item, pytest.Function):
            # A test may ask for a fixture by name, or by a parameter that holds the name.
            parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
            wanted.update(item.fixturenames, (value for value in parameters if isinstance(value, str)))
    for fixture, module in MODULES.items():
        if fixture in wanted:
            find_or_build(module)
