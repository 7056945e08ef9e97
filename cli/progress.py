"""Progress on standard error: a live line on a terminal, a plain line from time to time otherwise."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.file_proxy import FileProxy
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

LINE_SECONDS = 10.0
"""Interval of the plain lines."""


@contextmanager
def progress_bar(description: str, total: int, console: Console | None = None) -> Iterator[Callable[[int], None]]:
    """Show how much of `total` is done. Yields a function that takes the number done so far; call it as often as you like."""
    console = console or Console(stderr=True)
    if console.is_terminal:
        columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
        with _log_above(console), Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(description, total=total)
            yield lambda done: bar.update(task, completed=done)
        return
    last = time.monotonic()

    def print_share(done: int) -> None:
        nonlocal last
        if time.monotonic() - last >= LINE_SECONDS:
            last = time.monotonic()
            _print_line(console, f"{description}: {done / max(total, 1):.0%}")

    yield print_share


@contextmanager
def status_line(status: Callable[[], str], seconds: float | None = None, console: Console | None = None) -> Iterator[None]:
    """Show the text that `status` returns while the block lasts, for work whose total is unknown.

    Args:
        status: returns one line; called from other threads.
        seconds: interval of the plain lines (default: LINE_SECONDS). An unchanged text is not printed again.
        console: a console of standard error (default: a new one). Required if code in the block replaces sys.stderr.
    """
    console = console or Console(stderr=True)
    if console.is_terminal:
        columns = SpinnerColumn(), _Status(status), TimeElapsedColumn()
        # Code in the block may replace sys.stderr permanently, which rich would undo.
        live = Progress(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False)
        with _log_above(console), live:
            live.add_task("", total=None)
            yield
        return
    done = threading.Event()
    printer = threading.Thread(target=_print_changes, args=(status, seconds or LINE_SECONDS, console, done), daemon=True)
    printer.start()
    try:
        yield
    finally:
        done.set()
        printer.join()


class _Status(ProgressColumn):
    def __init__(self, status: Callable[[], str]) -> None:
        super().__init__()
        self._status = status

    def render(self, task: Task) -> Text:
        return Text(self._status(), no_wrap=True, overflow="ellipsis")


def _print_changes(status: Callable[[], str], seconds: float, console: Console, done: threading.Event) -> None:
    last = status()
    while not done.wait(seconds):
        if (line := status()) != last:
            _print_line(console, line)
            last = line


def _print_line(console: Console, line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def _log_above(console: Console) -> Iterator[None]:
    """Print log lines above the live line while the block lasts. Written straight to the terminal, they would end up in it."""
    stream = console.file
    handlers = [
        handler
        for handler in logging.getLogger().handlers
        if isinstance(handler, logging.StreamHandler) and handler.stream is stream
    ]
    for handler in handlers:
        handler.setStream(FileProxy(console, stream))
    try:
        yield
    finally:
        for handler in handlers:
            handler.setStream(stream)
