"""The walk by hand in README works as written."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.clock import PATIENCE
from tests.support.pubsub import free_port

ROOT = Path(__file__).parents[1]


@pytest.mark.integration
def test_readme__walk_by_hand(tmp_path: Path) -> None:
    """Every command of the walk succeeds, and all verdicts are COMPLETE."""
    # A folder that looks like the checkout, so that the walk's files are written there.
    for room in ("cli", "local", "pipelines", "publisher", "schemas", "storage", "audit", "tests", "transforms"):
        (tmp_path / room).symlink_to(ROOT / room)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)

    section = (ROOT / "README.md").read_text().split("## Run it yourself")[1]
    [walk] = re.findall(r"^```sh\n(.*?)^```$", section.split("\n## ")[0], re.MULTILINE | re.DOTALL)
    assert "pipelines.audit" in walk
    # As typed into a shell with job control. The first command that fails ends the script.
    script = "set -em\ntrap 'kill %1 2>/dev/null' EXIT\n" + walk.replace("8085", str(free_port()))
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=4 * PATIENCE, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "308 COMPLETE\n" in done.stdout
    assert "flight_departed" in done.stdout
