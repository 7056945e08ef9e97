"""The command that checks contracts: its output and its exit statuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.contracts import record, write_contract


def check(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipelines.check_contracts", *arguments]
    root = Path(__file__).parents[2]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)


def test_check_contracts__prints_a_line_for_each_event_type(tmp_path: Path) -> None:
    write_contract(tmp_path, record("thing"), version=2)
    write_contract(tmp_path, record("thing"), version=1)
    write_contract(tmp_path, record("another"), "another")
    result = check(str(tmp_path))
    assert (result.returncode, result.stdout, result.stderr) == (0, "another v1\nthing v1 v2\n", "")


def test_check_contracts__prints_every_problem_on_stderr(tmp_path: Path) -> None:
    files = [write_contract(tmp_path, "{", "thing", version) for version in range(1, 8)]
    result = check(str(tmp_path))
    assert (result.returncode, result.stdout) == (1, "")
    assert [line.split(": is not JSON")[0] for line in result.stderr.splitlines()] == [*map(str, files)]


def test_check_contracts__fails_on_a_missing_folder(tmp_path: Path) -> None:
    result = check(str(tmp_path / "nowhere"))
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert result.stderr.startswith(f"error: {tmp_path / 'nowhere'}: there is no such folder")
