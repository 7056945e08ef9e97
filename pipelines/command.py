"""Flags, and how a command ends: what every pipeline's command line shares."""

from __future__ import annotations

import errno
import logging
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import NoReturn, TextIO, TypeVar

from schemas.errors import EventDeliveryError
from transforms.pubsub.leases import release_all

T = TypeVar("T")

_log = logging.getLogger(__name__)

DRAIN_SECONDS = 600.0
"""How long a stream may drain after a signal; messages that are not delivered by then are released."""


class UserError(EventDeliveryError):
    """The command can't do what its flags ask for, or could not do all of it."""


def run_main(main: Callable[[Sequence[str]], int]) -> int:
    """Runs a command with the process's arguments; what a user can mend becomes one line and exit status 2.

    SIGINT and SIGTERM end the process with 128 and the signal's number, after it has released its leases; a second one
    ends it at once. Inside a block of `on_shutdown` the first one begins a drain, and those count that come after it. To be
    called in the main thread.
    """
    stderr = sys.stderr
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=stderr)
    # What stops a run is raised, and told once, below; Beam would tell it several times, with stack traces.
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    for room in ("__main__", "pipelines", "transforms", "storage", "audit"):
        logging.getLogger(room).setLevel(logging.INFO)
    ends: SimpleQueue[int | BaseException | signal.Signals] = SimpleQueue()

    def work() -> None:
        try:
            ends.put(main(sys.argv[1:]))
        except BaseException as error:  # noqa: BLE001 - raised again below
            ends.put(error)

    # The work has a thread of its own, and this one only waits. An exception that a signal raises where the work is done can
    # be lost, in a destructor or in a library that catches everything; a signal in a queue can't.
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda number, _: ends.put(signal.Signals(number))) for number in signals]
    threading.Thread(target=work, name="work", daemon=True).start()
    end = _first(ends)
    if isinstance(end, signal.Signals) and _drains:
        # Logged, not printed: a log line is printed above the progress of a terminal.
        _log.info("draining: delivering messages already pulled; send the signal again to stop now")
        for drain in _drains:
            drain()
        with suppress(Empty):
            end = _first(ends, DRAIN_SECONDS)
    for number, handler in zip(signals, before, strict=True):
        signal.signal(number, signal.SIG_DFL if isinstance(end, signal.Signals) else handler)
    if isinstance(end, signal.Signals):
        _interrupted(end, stderr)
    if isinstance(end, EventDeliveryError):
        print(f"error: {without_step(str(end))}", file=stderr)
        return end.exit_status
    if isinstance(end, OSError) and end.errno in (errno.ENOSPC, errno.EDQUOT):
        # Of a folder that is not the user's own, such as the one for temporary files: stores tell of theirs themselves.
        print(f"error: {end}. Free some space, or name another folder in TMPDIR; then run it again", file=stderr)
        return 2
    if isinstance(end, BaseException):
        sys.stderr = stderr
        raise end
    return end


def without_step(message: str) -> str:
    """Return an error's message without the name of the step, which Beam appends."""
    return message.partition(" [while running '")[0]


def _first(ends: SimpleQueue[T], seconds: float = math.inf) -> T:
    """What comes first. Waits a little at a time: a signal may reach the process in another thread, and is handled only when
    this one runs again. Raises Empty."""
    until = time.monotonic() + seconds
    while True:
        with suppress(Empty):
            return ends.get(timeout=0.2)
        if time.monotonic() > until:
            raise Empty


@contextmanager
def on_shutdown(drain: Callable[[], None]) -> Iterator[None]:
    """Call `drain` on the first SIGINT or SIGTERM inside the block; it must make the work end within DRAIN_SECONDS."""
    _drains.append(drain)
    try:
        yield
    finally:
        _drains.remove(drain)


_drains: list[Callable[[], None]] = []


def _interrupted(number: signal.Signals, stderr: TextIO) -> NoReturn:
    """Ends the process while its work goes on, as a kill would, but releases its leases first."""
    release_all()
    if stderr.isatty():
        print("\r\x1b[2K\x1b[?25h", end="", file=stderr)  # over the progress, which has hidden the cursor
    print("interrupted: no undelivered message was acknowledged; run the command again", file=stderr, flush=True)
    sys.stdout.flush()
    os._exit(128 + number)
