"""Run `deliver --mode=stream` for tests, in a process of its own, on Prism."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.support.delivery import World

SECONDS = 60


class Running:
    """A running stream in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def engine(self) -> int:
        """Return Prism's process id."""
        children = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True, check=True)
        return int(children.stdout)

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """Send a signal and return the exit status and the text on standard error."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> tuple[int, str]:
        """Wait until the stream ends by itself. Returns the exit status and the text on standard error."""
        _, stderr = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, stderr


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
    start = "import sys; from pipelines import command, deliver; sys.exit(command.run_main(deliver.main))"
    command = [sys.executable, "-c", f"{settings}\n{start}", *flags]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            output = ""
            assert process.stderr
            while "delivering messages until" not in output and (line := process.stderr.readline()):
                output += line
            assert "delivering messages until" in output, output
            yield Running(process)
        finally:
            process.kill()


def eventually(condition: Callable[[], bool], seconds: float = SECONDS) -> bool:
    """Poll the condition until it holds or the time is up. Returns whether it held."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
