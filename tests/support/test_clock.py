"""The tests' clock is the only one, so no test depends on the hour in which it runs."""

from __future__ import annotations

import ast
from datetime import timedelta
from pathlib import Path

from tests.support.clock import BEGIN, CLOCK
from transforms.clocks import utc_now

TESTS = Path(__file__).parents[1]
WALL_CLOCKS = {"datetime.now", "datetime.today", "datetime.utcnow", "date.today", "time.time", "time.localtime", "time.gmtime"}
ALLOWED = {
    "support/clock.py",
    "local/pubsub/test_broker.py",  # compares with the clock of the official emulator
    "publisher/test_cli.py",  # compares the publisher's own stamp with the moments before and after
}


def test_clock__pipelines_read_it() -> None:
    assert BEGIN <= utc_now() < BEGIN + timedelta(minutes=30)
    CLOCK.advance(3600)
    assert utc_now() >= BEGIN + timedelta(hours=1)


def test_clock__restarts_for_each_test() -> None:
    assert BEGIN <= utc_now() < BEGIN + timedelta(minutes=30)


def test_tests__read_no_wall_clock() -> None:
    found = [
        f"{path.relative_to(TESTS)}:{node.lineno}"
        for path in sorted(TESTS.rglob("*.py"))
        if str(path.relative_to(TESTS)) not in ALLOWED
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in WALL_CLOCKS
    ]
    assert found == []
