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


def map_with_progress(description: str, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Call `function` on each item, and return the results in the order of the items.

    The first error ends it, and calls that have not begun are cancelled.
    """
    with Progress(console=Console(stderr=True), transient=True) as progress, ThreadPoolExecutor(THREADS) as threads:
        task = progress.add_task(description, total=len(items))
        futures = [threads.submit(function, item) for item in items]
        try:
            for future in as_completed(futures):
                future.result()
                progress.advance(task)
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            raise
        return [future.result() for future in futures]
