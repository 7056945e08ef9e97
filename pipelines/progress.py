"""Progress: many calls of a store at once, and how far they are, for whoever watches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress

THREADS = 8
"""Calls at a time: they wait for the store, most of the time."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def each(what: str, act: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """What `act` returns for each item, in the items' order. The first error ends it: what has not begun then is not begun."""
    with Progress(console=Console(stderr=True), transient=True) as progress, ThreadPoolExecutor(THREADS) as threads:
        task = progress.add_task(what, total=len(items))
        futures = [threads.submit(act, item) for item in items]
        try:
            for future in as_completed(futures):
                future.result()
                progress.advance(task)
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            raise
        return [future.result() for future in futures]
