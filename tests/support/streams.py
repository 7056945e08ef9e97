"""Run `deliver --mode=stream` for tests, in a process of its own, on Prism."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from tests.support.clock import CLOCK, PATIENCE, eventually
from tests.support.delivery import World


class Running:
    """A running stream in a process of its own.

    Args:
        log: the file of its standard error
    """

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.process = process
        self.log = log

    def prism(self) -> int:
        """Return Prism's process id."""
        children = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True, check=True)
        return int(children.stdout)

    def prints(self, text: str) -> bool:
        """Wait for a text in the log. Returns whether it appeared before the process ended."""
        eventually(lambda: text in self.log.read_text() or self.process.poll() is not None)
        return text in self.log.read_text()

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """Send a signal and wait. Returns the exit status and the log."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> tuple[int, str]:
        """Wait for the end of the process. Returns the exit status and the log."""
        status = self.process.wait(PATIENCE)
        return status, self.log.read_text()


@contextmanager
def streaming(world: World, prism: str, *more: str, settings: str = "", address: str = "") -> Iterator[Running]:
    """Run a stream while the block lasts.

    Args:
        more: further flags of deliver
        settings: Python code that runs before deliver, for example to shorten time-outs
        address: host:port of Pub/Sub if not the world's, for example a proxy's
    """
    environment = {**os.environ, "PUBSUB_EMULATOR_HOST": address or world.address, "NO_GCE_CHECK": "true"}
    flags = [*world.deliver_flags(), "--mode=stream", f"--prism_location={prism}", *more]
    clock = f"from tests.support.clock import use_clock; use_clock({CLOCK.started})"
    start = "import sys; from pipelines import command, deliver; sys.exit(command.run_main(deliver.main))"
    command = [sys.executable, "-c", f"{clock}\n{settings}\n{start}", *flags]
    log = world.folder / f"stream-{uuid4().hex}.log"
    with log.open("w") as stderr, subprocess.Popen(command, stderr=stderr, text=True, env=environment) as process:
        try:
            running = Running(process, log)
            assert running.prints("delivering messages until"), log.read_text()
            yield running
        finally:
            process.kill()
