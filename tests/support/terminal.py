"""A terminal of 80 columns for a command, as a person has one."""

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
    """What a command has printed to its terminal, and how it ended."""

    status: int
    text: str

    @property
    def lines(self) -> list[str]:
        """The lines that were shown, those included that were written over, without colours."""
        return [line for line in re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.text)) if line]


def run_on_terminal(*arguments: str, environment: Mapping[str, str] | None = None, interrupt_at: str = "") -> Shown:
    """Run Python with these arguments on a terminal. interrupt_at: press Ctrl-C when this text has been shown."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
    variables = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    variables |= {"TERM": "xterm-256color", **(environment or {})}
    process = subprocess.Popen(
        # The first terminal that a session opens becomes its own: Ctrl-C reaches the command then.
        ["/bin/sh", "-c", 'exec "$@" <"$0" >"$0" 2>&1', os.ttyname(theirs), sys.executable, *arguments],
        cwd=ROOT,
        env=variables,
        start_new_session=True,
    )
    text, interrupted, until = b"", False, time.monotonic() + SECONDS
    try:
        while data := _read(ours, process):
            text += data
            if interrupt_at and not interrupted and interrupt_at.encode() in text:
                os.write(ours, b"\x03")
                interrupted = True
            assert time.monotonic() < until, text
        return Shown(process.wait(SECONDS), text.decode())
    finally:
        process.kill()
        os.close(theirs)
        os.close(ours)


def _read(terminal: int, process: subprocess.Popen[bytes]) -> bytes:
    """Return what is shown next, or nothing when the command has ended and all is read."""
    while True:
        ended = process.poll() is not None
        if select.select([terminal], [], [], 0 if ended else 0.1)[0]:
            return os.read(terminal, 65536)
        if ended:
            return b""
