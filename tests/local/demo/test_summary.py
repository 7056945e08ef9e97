"""The demo's table and hints on a terminal of 80 columns."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from local.demo.__main__ import WIDTH, commands, print_next_steps, shell_lines
from local.demo.summary import late_by_type, summary_table
from publisher.simulate import EVENT_TYPES
from tests.support.delivery import FLIGHT_TYPES

END = datetime(2026, 1, 31, 12, tzinfo=UTC)


def verdict(event_type: str, status: str = "COMPLETE", late: int = 0) -> dict[str, Any]:
    return {
        "event_type": event_type,
        "status": status,
        "published": 33_333,
        "received": 33_333,
        "in_files": 22_222,
        "in_table": 22_222,
        "late": late,
        "duplicates": 1_111,
        "dead_letters": 10_000,
    }


def printed(*renderables: Any) -> list[str]:
    console = Console(file=io.StringIO(), width=80, highlight=False)
    for renderable in renderables:
        console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_summary_table__eighty_columns() -> None:
    """Each type has one line in which nothing is cut, even with larger numbers than the demo's."""
    types = ["", *EVENT_TYPES, *FLIGHT_TYPES]
    lines = printed(summary_table([verdict(event_type) for event_type in types for _ in range(3)]))
    assert max(map(len, lines)) <= 80
    assert "…" not in "".join(lines)
    for event_type in types:
        [line] = [line for line in lines if line.startswith(f"{event_type or '(no type)'} ")]
        assert line.split()[-9:] == ["99,999", "99,999", "66,666", "66,666", "3,333", "30,000", "3", "of", "3"]
    assert lines[-1].split()[0] == "all"
    assert [word for word in ("published", "received", "files", "table", "letters", "COMPLETE") if word not in lines[1]] == []


def test_summary_table__incomplete() -> None:
    lines = printed(summary_table([verdict("track_played"), verdict("track_played", "MISSING")]))
    assert lines[-1].endswith("1 of 2")


def test_late_by_type__most_first() -> None:
    verdicts = [verdict("a", late=1), verdict("b", late=2), verdict("a", late=2), verdict("c"), {**verdict("d"), "late": None}]
    assert late_by_type(verdicts) == ["     3  a", "     2  b"]


def test_shell_lines__demo_commands() -> None:
    """The printed commands are those that run, as valid shell input in lines that fit."""
    for _, _, command in commands(Path("demo"), END):
        lines = shell_lines(["$ python -m", *command])
        assert max(map(len, lines.splitlines())) <= WIDTH
        assert lines.replace(" \\\n   ", "") == f"$ python -m {' '.join(command)}"


def test_shell_lines__long_word() -> None:
    assert shell_lines(["a", "b" * 100, "c"]) == f"a \\\n    {'b' * 100} \\\n    c"


def test_print_next_steps__eighty_columns(capsys: pytest.CaptureFixture[str]) -> None:
    print_next_steps(Console(highlight=False, soft_wrap=True), Path("demo"), END)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "Try next:" in lines
