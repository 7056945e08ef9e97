"""A lane: a process that has imported the pipelines, and forks a child for each run of them.

Importing Beam takes seconds, which is too much for each of a hundred runs. A process that has used gRPC can't fork, so a lane
never uses it: it reads a line of JSON per run, and writes the child's process id and then its wait status.
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
"""The commands. STREAM is deliver in stream mode, on Prism."""


@dataclass(frozen=True)
class Ended:
    """The end of a run."""

    status: int
    """Exit status of the process, or the negative number of the signal that killed it."""
    report: Mapping[str, Any]
    """The report of `Points`: the stage before a kill, or the counts."""
    log: str
    """Output of the process."""


class Lane:
    """The lane's process, as a test sees it."""

    _process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def _start(self) -> subprocess.Popen[str]:
        """Start the process late: many test processes need only one of their lanes."""
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
        """Run a command in a child process and wait for its end.

        Args:
            stage, nth: where to kill it, see `Points`
            shared: whether another process uses the same DuckDB file
            started: called with the child's process id
        """
        report, log = folder / f"report-{id(self)}.json", folder / f"log-{id(self)}.txt"
        report.unlink(missing_ok=True)
        request: dict[str, Any] = {"command": command, "flags": flags, "report": str(report), "log": str(log)}
        request |= {"address": address, "stage": stage, "nth": nth, "shared": shared, "clock": CLOCK.started}
        self._process = self._process or self._start()
        assert self._process.stdin
        assert self._process.stdout
        print(json.dumps(request), file=self._process.stdin, flush=True)
        started(int(self._process.stdout.readline()))
        status = int(self._process.stdout.readline())
        return Ended(status, json.loads(report.read_text()) if report.exists() else {}, log.read_text())


def main() -> None:
    from pipelines import audit, backfill, deliver, replay  # noqa: F401 - imported here, so that the test process need not wait for it

    assert threading.active_count() == 1, "a process with threads can't be forked"
    gc.freeze()
    for line in sys.stdin:
        request = json.loads(line)
        # With Prism the run uses gRPC in its own process, which does not work in a forked one.
        child = _start(line) if request["command"] == STREAM else os.fork()
        if not child:
            _work(request)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _start(line: str) -> int:
    return subprocess.Popen([sys.executable, "-m", "tests.crash.fork_server", line]).pid


def _work(request: Mapping[str, Any]) -> None:
    """Do the run, in the child."""
    status = 1
    try:
        descriptor = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for number in (1, 2):
            os.dup2(descriptor, number)
        status = _run(request)
    except BaseException:  # noqa: BLE001 - the process ends here, so it can only log
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
    # Skip fsync: the files that a killed process leaves do not depend on the disk's caches.
    vars(directory)["flush"] = vars(directory)["flush_folder"] = lambda _: None
    # Small batches, so that there are moments between them.
    replaying.MOST_MESSAGES = 7
    vars(graph)["LOAD_EVERY"] = timedelta(seconds=1)
    points = Points(request["stage"], request["nth"], Path(request["report"]))
    points.arm()
    mains = {AUDIT: audit.main, BACKFILL: backfill.main, DELIVER: deliver.main, REPLAY: replay.main, STREAM: deliver.main}
    status = mains[request["command"]](request["flags"])
    points.write_counts()
    return status


def _share_tables() -> None:
    """Let several processes use a DuckDB file, as they can use BigQuery: each opens it for one call at a time."""
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
