"""Runs many calls of a store in parallel, with a progress bar."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

from cli.progress import progress_bar

THREADS = 8
"""Number of parallel calls. They wait for the store most of the time."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_with_progress(description: str, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Call `function` on each item, and return the results in the order of the items.

    The first error is raised at once, and calls that have not begun are cancelled.
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
