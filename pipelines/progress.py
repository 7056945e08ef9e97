"""Many calls of a store at once, with a progress bar."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

from cli.progress import progress_bar

THREADS = 8
"""Calls at a time: they wait for the store, most of the time."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_with_progress(description: str, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Call `function` on each item, and return the results in the order of the items.

    The first error ends it, and calls that have not begun are cancelled.
    """
    with progress_bar(description, len(items)) as show_done, ThreadPoolExecutor(THREADS) as threads:
        futures = [threads.submit(function, item) for item in items]
        try:
            for done, future in enumerate(as_completed(futures), 1):
                future.result()
                show_done(done)
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            raise
        return [future.result() for future in futures]
