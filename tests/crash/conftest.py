"""The field that all of these tests share, and at the end how many kills fell into each stage."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.crash.crash_points import STAGES
from tests.crash.kill_report import kills_of
from tests.crash.worlds import LANES, Field, places


@pytest.fixture(scope="module")
def field(request: pytest.FixtureRequest) -> Iterator[Field]:
    with places(LANES) as made:
        yield Field(made, kills_of(request.config))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for command in STAGES:
        if told := kills_of(config).told(command):
            terminalreporter.section(told[0])
            for line in told[1:]:
                terminalreporter.write_line(line)
