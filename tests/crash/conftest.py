"""Tells at the end how many kills fell into each stage."""

from __future__ import annotations

import pytest

from tests.crash.kills import kills_of


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    kills = kills_of(config)
    if kills.by_stage:
        terminalreporter.section(f"{kills.by_stage.total()} kills of deliver, by the stage that they fell into")
        for line in kills.told():
            terminalreporter.write_line(line)
