"""A lane: a process that has imported all that the pipelines need, and forks a child for each run of them.

To import Beam takes seconds, which a hundred runs can't each afford. A process that has spoken gRPC can't fork, so a lane never
does: it reads a line of JSON for each run, and writes the child's process id, then its wait status.
"""

from __future__ import annotations

import fcntl
import gc
import json
import os
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import wraps
from pathlib import Path
from typing import Any, Self

from tests.support.clock import CLOCK, PATIENCE

AUDIT, BACKFILL, DELIVER, REPLAY, STREAM = "audit", "backfill", "deliver", "replay", "stream"
"""The commands. A stream is deliver's, on Prism."""


@dataclass(frozen=True)
class Ended:
    """How a run ended. status: what the process gave, negative for a signal; told: what `Points` wrote; log: its output."""

    status: int
    told: Mapping[str, Any]
    log: str


class Lane:
    """The lane's process, seen from the test."""

    _process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def _start(self) -> subprocess.Popen[str]:
        """Start the process for its first run: many a test process needs only one of its lanes."""
        command = [sys.executable, "-m", "tests.crash.fork_server"]
        environment = os.environ | {"GRPC_ENABLE_FORK_SUPPORT": "0", "NO_GCE_CHECK": "true"}
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)

    def __exit__(self, *_: object) -> None:
        if self._process:
            assert self._process.stdin
            assert self._process.stdout
            self._process.stdin.close()
            self._process.wait(PATIENCE)
            self._process.stdout.close()

    def run(
        self,
        command: str,
        flags: Sequence[str],
        folder: Path,
        address: str,
        stage: str | None = None,
        nth: int = 1,
        shared: bool = False,
        started: Callable[[int], object] = lambda _: None,
    ) -> Ended:
        """Runs a pipeline; started: is told the process id. shared: its DuckDB file is another process's as well."""
        told, log = folder / f"told-{id(self)}.json", folder / f"log-{id(self)}.txt"
        told.unlink(missing_ok=True)
        request: dict[str, Any] = {"command": command, "flags": flags, "told": str(told), "log": str(log)}
        request |= {"address": address, "stage": stage, "nth": nth, "shared": shared, "clock": CLOCK.started}
        self._process = self._process or self._start()
        assert self._process.stdin
        assert self._process.stdout
        print(json.dumps(request), file=self._process.stdin, flush=True)
        started(int(self._process.stdout.readline()))
        status = int(self._process.stdout.readline())
        return Ended(status, json.loads(told.read_text()) if told.exists() else {}, log.read_text())


def main() -> None:
    from pipelines import audit, backfill, deliver, replay  # noqa: F401 - here, for the test itself not to wait for it

    assert threading.active_count() == 1, "a process with threads can't be forked"
    gc.freeze()
    for line in sys.stdin:
        request = json.loads(line)
        # Prism speaks gRPC to this process and not only for it, which a forked one does not survive.
        child = _start(line) if request["command"] == STREAM else os.fork()
        if not child:
            _work(request)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _start(line: str) -> int:
    return subprocess.Popen([sys.executable, "-m", "tests.crash.fork_server", line]).pid


def _work(request: Mapping[str, Any]) -> None:
    """The run, in the child."""
    status = 1
    try:
        descriptor = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for number in (1, 2):
            os.dup2(descriptor, number)
        status = _run(request)
    except BaseException:  # noqa: BLE001 - all that is left to do is to tell
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _run(request: Mapping[str, Any]) -> int:
    import logging

    from pipelines import audit, backfill, deliver, graph, replay
    from storage.objects import local as directory
    from tests.crash.crash_points import Points
    from tests.support.clock import use_clock
    from tests.support.pubsub import PULL_SECONDS
    from transforms.pubsub import leases
    from transforms.recovery import replay as replaying

    use_clock(request["clock"])
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    os.environ["PUBSUB_EMULATOR_HOST"] = request["address"]
    leases.PULL_SECONDS = PULL_SECONDS
    if request["shared"]:
        leases.PULL_MESSAGES = 20
        _share_tables()
    # What a process leaves that is killed does not depend on the disk's caches.
    vars(directory)["flush"] = vars(directory)["flush_folder"] = lambda _: None
    # Small ones, for there to be a time between them.
    replaying.MOST_MESSAGES = 7
    vars(graph)["LOAD_EVERY"] = timedelta(seconds=1)
    points = Points(request["stage"], request["nth"], Path(request["told"]))
    points.arm()
    mains = {AUDIT: audit.main, BACKFILL: backfill.main, DELIVER: deliver.main, REPLAY: replay.main, STREAM: deliver.main}
    status = mains[request["command"]](request["flags"])
    points.tell()
    return status


def _share_tables() -> None:
    """Lets processes take turns at a DuckDB file, as they can with BigQuery: each opens it for one call at a time."""
    from storage.tables.duckdb_file import DuckDBFile

    def share(name: str) -> None:
        original = getattr(DuckDBFile, name)

        @wraps(original)
        def wrapped(self: DuckDBFile, *args: Any) -> Any:
            with open(f"{self.path}.turns", "ab") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                try:
                    return original(self, *args)
                finally:
                    with suppress(Exception):
                        self.close()

        setattr(DuckDBFile, name, wrapped)

    for name in ("check_writable", "ensure", "load"):
        share(name)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        _work(json.loads(sys.argv[1]))
    main()
