"""Kills: the number in each stage of each command, collected from all tests and printed at the end."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterable, Iterator

import pytest

from tests.crash.crash_points import ELSEWHERE, STAGES
from tests.crash.fork_server import Ended

KILLED = -signal.SIGKILL


class Kills:
    """The kills of one test, as a command and a stage each."""

    def __init__(self) -> None:
        self.places: list[tuple[str, str]] = []

    def add(self, command: str, ended: Ended) -> str | None:
        """Record how a run ended.

        Returns:
            the stage in which it was killed, ELSEWHERE if from outside; None if it was completed

        Raises:
            AssertionError: it ended in any other way
        """
        assert ended.status in (0, KILLED), ended.log
        if ended.status == 0:
            return None
        stage = str(ended.report.get("killed", ELSEWHERE))
        self.places.append((command, stage))
        return stage


@pytest.fixture
def kills(request: pytest.FixtureRequest) -> Iterator[Kills]:
    """Count the test's kills and attach them to its report, which pytest-xdist passes on to the main process."""
    kills = Kills()
    yield kills
    request.node.user_properties += [("kill", place) for place in kills.places]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for report in terminalreporter.stats.get("", []) if isinstance(report, pytest.TestReport)]
    for title, *lines in tables(value for report in reports for name, value in report.user_properties if name == "kill"):
        terminalreporter.section(title)
        for line in lines:
            terminalreporter.write_line(line)


def tables(places: Iterable[object]) -> Iterator[list[str]]:
    """Yield a title and one line per stage for each command that was killed at least once."""
    numbers = Counter(tuple(place) for place in places if isinstance(place, list | tuple))
    for command, stages in STAGES.items():
        counts = {stage: numbers[command, stage] for stage in (*stages, ELSEWHERE)}
        if any(counts.values()):
            title = f"{sum(counts.values())} kills of {command}, by stage"
            yield [title, *(f"{count:5} {stage}" for stage, count in counts.items())]
