"""Points of a run at which a process can be killed.

Each stage between two steps has a name, and the functions that reach it are wrapped in the process that is to be killed.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from pipelines import replay
from schemas.buckets import STAGING
from storage.objects import local as directory
from storage.objects.local import Directory
from storage.tables import duckdb_file
from storage.tables.duckdb_file import DuckDBFile
from tests.crash.fork_server import BACKFILL, DELIVER, REPLAY, STREAM
from transforms import report as reporting
from transforms.pubsub.leases import Leases
from transforms.recovery import archive_source
from transforms.recovery import replay as replaying
from transforms.write import transform as delivering

Which = Callable[..., str | None]
"""Arguments of a call -> the stage that the process is in just before or after it, or None."""

ELSEWHERE = "any time, from outside"


class Points:
    """Count how often each stage is reached, and kill the process the n-th time that it reaches the given one."""

    def __init__(self, stage: str | None, nth: int, report: Path) -> None:
        """Create points.

        Args:
            stage: the stage to kill at; None: never
            nth: at which visit of the stage
            report: file for the stage before a kill, or for the counts at the end
        """
        self._stage, self._nth, self._report = stage, nth, report
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def reach(self, stage: str | None) -> None:
        if stage is None:
            return
        with self._lock:
            self._counts[stage] += 1
            if stage == self._stage and self._counts[stage] == self._nth:
                self._report.write_text(json.dumps({"killed": stage}))
                os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(60)

    def write_counts(self) -> None:
        """Write the counts: the run has ended by itself."""
        self._report.write_text(json.dumps({"counts": self._counts}))

    def arm(self) -> None:
        """Wrap the functions in this process."""
        for owner, name, which in BEFORE:
            self._wrap(owner, name, which, before=True)
        for owner, name, which in AFTER:
            self._wrap(owner, name, which, before=False)

    def _wrap(self, owner: Any, name: str, which: Which, *, before: bool) -> None:
        original = getattr(owner, name)

        @wraps(original)
        def wrapped(*args: Any, **more: Any) -> Any:
            if before:
                self.reach(which(*args))
            result = original(*args, **more)
            if not before:
                self.reach(which(*args))
            return result

        setattr(owner, name, wrapped)


def always(stage: str) -> Which:
    return lambda *_: stage


def _staged(_: Directory, name: str, data: Any) -> str | None:
    if not name.startswith(f"{STAGING}/"):
        return None
    return "file staged, no index" if name.endswith(".avro") else "staged, not committed"


def _written(_: Directory, name: str, data: bytes, *generation: int) -> str | None:
    if name.startswith("turns/"):
        return "turn taken, no version" if json.loads(data)["pending"] else "turn is over"
    if name.endswith("/_RECEIPT.json"):
        return "manifest shown, not marked"
    if name.endswith("/_SUCCESS"):
        return "closed"
    if name.endswith(".loaded"):
        return "load marked, not reported"
    return "version created, no files" if "/_receipts/" in name else None


def _placed(_: Directory, source: str, target: str) -> str:
    return "index placed, no file" if target.endswith(".ids") else "file placed, no manifest"


BEFORE: tuple[tuple[Any, str, Which], ...] = (
    (Leases, "__enter__", always("nothing pulled")),
    (Leases, "lease", always("pulled, not held")),
    (delivering, "stage_records", always("held, not written")),
    (directory, "flush", always("in the middle of a write")),
    (Leases, "ack_packs", always("committed, not acknowledged")),
    (DuckDBFile, "load", always("not loaded")),
    (reporting._Report, "finish_bundle", always("loaded, not reported")),
    (archive_source, "read_messages", always("archive file not read")),
    (replay, "check_topic", always("nothing replayed")),
    (replaying, "resolved_since", always("dead letters not looked up")),
    (replaying.Outbox, "add", always("dead letter not sent")),
    (replaying.Outbox, "flush", always("dead letters sent, no answer")),
)
AFTER: tuple[tuple[Any, str, Which], ...] = (
    (Directory, "write", _staged),
    (Directory, "create", _written),
    (Directory, "replace", _written),
    (Directory, "publish", _placed),
    (Leases, "_acknowledge", always("acknowledged")),
    (duckdb_file, "_replace", always("in the middle of a load")),
    (DuckDBFile, "load", always("loaded, not marked")),
    (reporting._Report, "finish_bundle", always("reported")),
    (replaying.Outbox, "flush", always("dead letters answered")),
)
_PULLED = ("nothing pulled", "pulled, not held")
_COMMITTED = (
    "held, not written",
    "in the middle of a write",
    "file staged, no index",
    "staged, not committed",
    "turn taken, no version",
    "turn is over",
    "version created, no files",
    "index placed, no file",
    "file placed, no manifest",
    "manifest shown, not marked",
    "closed",
)
_ACKNOWLEDGED = ("committed, not acknowledged", "acknowledged")
_LOADED = (
    "not loaded",
    "in the middle of a load",
    "loaded, not marked",
    "load marked, not reported",
    "loaded, not reported",
    "reported",
)
STAGES = {
    DELIVER: (*_PULLED, *_COMMITTED, *_ACKNOWLEDGED, *_LOADED),
    STREAM: (*_PULLED, *_COMMITTED, *_ACKNOWLEDGED, *_LOADED),
    BACKFILL: ("archive file not read", *_COMMITTED, *_LOADED),
    REPLAY: (
        "nothing replayed",
        "dead letters not looked up",
        "dead letter not sent",
        "dead letters sent, no answer",
        "dead letters answered",
    ),
}
"""The stages of each command, in the order in which an event reaches them."""
