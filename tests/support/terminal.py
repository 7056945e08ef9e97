"""Run a command on a pseudo-terminal of 80 columns."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SECONDS = 120.0


@dataclass(frozen=True)
class Shown:
    """The output of a command on its terminal, and its exit status."""

    status: int
    text: str

    @property
    def lines(self) -> list[str]:
        """Return the lines without colours, including lines that were overwritten later."""
        return [line for line in re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.text)) if line]


def run_on_terminal(*arguments: str, environment: Mapping[str, str] | None = None, interrupt_at: str = "") -> Shown:
    """Run Python with these arguments on a terminal.

    Args:
        environment: further environment variables
        interrupt_at: press Ctrl-C when this text has appeared
    """
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
    variables = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    variables |= {"TERM": "xterm-256color", **(environment or {})}
    process = subprocess.Popen(
        # The first terminal that a session opens becomes its controlling terminal, so Ctrl-C reaches the command.
        ["/bin/sh", "-c", 'exec "$@" <"$0" >"$0" 2>&1', os.ttyname(terminal), sys.executable, *arguments],
        cwd=ROOT,
        env=variables,
        start_new_session=True,
    )
    text, interrupted, deadline = b"", False, time.monotonic() + SECONDS
    try:
        while data := _read(controller, process):
            text += data
            if interrupt_at and not interrupted and interrupt_at.encode() in text:
                os.write(controller, b"\x03")
                interrupted = True
            assert time.monotonic() < deadline, text
        return Shown(process.wait(SECONDS), text.decode())
    finally:
        process.kill()
        os.close(terminal)
        os.close(controller)


def _read(terminal: int, process: subprocess.Popen[bytes]) -> bytes:
    """Return the next output, or b"" when the command has ended and everything was read."""
    while True:
        ended = process.poll() is not None
        if select.select([terminal], [], [], 0 if ended else 0.1)[0]:
            return os.read(terminal, 65536)
        if ended:
            return b""
