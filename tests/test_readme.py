"""The walk by hand in README works as it is written."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.pubsub import free_port

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_walk_by_hand_ends_with_nothing_but_complete(tmp_path: Path) -> None:
    # A folder that looks like the checkout, for what the walk makes to lie there.
    for room in ("local", "pipelines", "publisher", "schemas", "storage", "audit", "tests", "transforms"):
        (tmp_path / room).symlink_to(ROOT / room)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)

    section = (ROOT / "README.md").read_text().split("## Run it yourself")[1]
    [walk] = re.findall(r"^```sh\n(.*?)^```$", section.split("\n## ")[0], re.MULTILINE | re.DOTALL)
    assert "pipelines.audit" in walk
    # As typed into a shell with job control, and ended by the first command that fails.
    script = "set -em\ntrap 'kill %1 2>/dev/null' EXIT\n" + walk.replace("8085", str(free_port()))
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "308 COMPLETE\n" in done.stdout
    assert "flight_departed" in done.stdout
