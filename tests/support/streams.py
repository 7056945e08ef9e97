"""Streams for tests: deliver --mode=stream in a process of its own, on Prism."""

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
    """A stream in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def engine(self) -> int:
        """Prism's process id."""
        children = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True, check=True)
        return int(children.stdout)

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """The exit status after a signal, and what it said."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> tuple[int, str]:
        """The exit status when it ends by itself, and what it said."""
        _, said = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, said


@contextmanager
def streaming(world: World, prism: str, *more: str, settings: str = "", address: str = "") -> Iterator[Running]:
    """Runs while the block lasts. settings: Python that runs before it, such as shorter times; address: a way to Pub/Sub of
    its own."""
    environment = {**os.environ, "PUBSUB_EMULATOR_HOST": address or world.address, "NO_GCE_CHECK": "true"}
    flags = [*world.deliver_flags(), "--mode=stream", f"--prism_location={prism}", *more]
    start = "import sys; from pipelines import command, deliver; sys.exit(command.run_main(deliver.main))"
    command = [sys.executable, "-c", f"{settings}\n{start}", *flags]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            before = ""
            assert process.stderr
            while "taking what comes" not in before and (line := process.stderr.readline()):
                before += line
            assert "taking what comes" in before, before
            yield Running(process)
        finally:
            process.kill()


def eventually(what: Callable[[], bool], seconds: float = SECONDS) -> bool:
    until = time.monotonic() + seconds
    while not what():
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True
