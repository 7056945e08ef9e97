"""Progress on the standard error: a live line on a terminal, a plain line now and then elsewhere."""

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
"""Between two plain lines."""


@contextmanager
def progress_bar(what: str, total: int, console: Console | None = None) -> Iterator[Callable[[int], None]]:
    """Show how much of `total` is done. Yields a function that takes the number done so far; call it as often as you like."""
    console = console or Console(stderr=True)
    if console.is_terminal:
        columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
        with _log_above(console), Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(what, total=total)
            yield lambda done: bar.update(task, completed=done)
        return
    last = time.monotonic()

    def tell(done: int) -> None:
        nonlocal last
        if time.monotonic() - last >= LINE_SECONDS:
            last = time.monotonic()
            _print_line(console, f"{what}: {done / max(total, 1):.0%}")

    yield tell


@contextmanager
def status_line(status: Callable[[], str], seconds: float | None = None, console: Console | None = None) -> Iterator[None]:
    """Show the text that `status` returns while the block lasts, for work whose total is unknown.

    Args:
        status: returns one line; called from other threads.
        seconds: between two plain lines (default: LINE_SECONDS). A text that has not changed is not repeated.
        console: of the standard error (default). Name it where something in the block replaces sys.stderr.
    """
    console = console or Console(stderr=True)
    if console.is_terminal:
        columns = SpinnerColumn(), _Status(status), TimeElapsedColumn()
        # What replaces sys.stderr in the block may do so for good; rich would put the old one back.
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
