"""How the pipelines' commands run and end: exit status, errors, signals and logging."""

from __future__ import annotations

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

from cli.command import flush_output, report_error
from schemas.errors import EventDeliveryError
from transforms.pubsub.leases import release_all

T = TypeVar("T")

_log = logging.getLogger(__name__)

DRAIN_SECONDS = 600.0
"""How long a stream may drain after a signal; messages that are not delivered by then are released."""


def run_main(main: Callable[[Sequence[str]], int]) -> int:
    """Call `run_command`, and return the exit status. If the command failed, end the process at once instead of returning.

    Threads of the runner may still run after a failure. They keep DuckDB's client from a clean shutdown, which prints dozens of
    lines about leaked objects below the error.
    """
    status = run_command(main)
    if status == EventDeliveryError.exit_status:
        sys.stderr.flush()
        os._exit(status)
    return status


def run_command(main: Callable[[Sequence[str]], int]) -> int:
    """Run a command with the arguments of the process, print its error if it fails, and return the exit status.

    Call it in the main thread. The command runs in a thread of its own.

    An EventDeliveryError, or an OSError of a full disk, is printed as one line without a stack trace.

    SIGINT and SIGTERM release the leases of the process and end it with exit status 130 or 143; a further signal ends it at
    once. Inside a block of `on_shutdown`, the first signal starts a drain, and only the second one ends the process so.
    """
    stderr = sys.stderr
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=stderr)
    # The error that ends a run is printed once, below; Beam would log it several times, with stack traces.
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    for package in ("__main__", "pipelines", "transforms", "storage", "audit"):
        logging.getLogger(package).setLevel(logging.INFO)
    ends: SimpleQueue[int | BaseException | signal.Signals] = SimpleQueue()

    def work() -> None:
        try:
            ends.put(main(sys.argv[1:]))
        except BaseException as error:  # noqa: BLE001 - raised again below
            ends.put(error)

    # The work has a thread of its own, and this thread only waits. An exception that a signal handler raised in the working
    # thread could be lost in a destructor, or in a library that catches every exception; a signal in a queue can't.
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
    if isinstance(end, Exception):
        return flush_output(report_error(_explained(end), stderr))
    if isinstance(end, BaseException):  # SystemExit
        raise end
    return flush_output(end)


def _explained(error: Exception) -> Exception:
    """Return the error to report to the user."""
    if isinstance(error, EventDeliveryError):
        error.args = (without_step(str(error)), *error.args[1:])
    return error


def without_step(message: str) -> str:
    """Return an error's message without the name of the step, which Beam appends."""
    return message.partition(" [while running '")[0]


def _first(ends: SimpleQueue[T], seconds: float = math.inf) -> T:
    """Return the first item of the queue.

    Waits in short steps: the kernel may deliver a signal to another thread, and its handler runs only when this thread wakes.

    Raises:
        Empty: there was none within `seconds`.
    """
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
    """Release the leases, then end the process as a kill would, while its work is still running."""
    release_all()
    if stderr.isatty():
        print("\r\x1b[2K\x1b[?25h", end="", file=stderr)  # over the progress, which has hidden the cursor
    print("interrupted: no undelivered message was acknowledged; run the command again", file=stderr, flush=True)
    sys.stdout.flush()
    os._exit(128 + number)
