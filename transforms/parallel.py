"""Parallel work on a store: the buckets of a bundle, several at a time."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import apache_beam as beam

from schemas.buckets import Bucket
from transforms.metrics import BundleMetrics

AT_ONCE = 8
"""Commits and loads that a worker makes in parallel: each is a dozen round trips to a store that has time for many."""


class ParallelByBucket(beam.DoFn):  # type: ignore[misc]
    """Processes the buckets of a bundle in parallel, in threads, and the elements of one bucket in turn. The results of
    `process_one` are emitted when all are done; the first error is raised then, so that a failure of one bucket stops no other.
    """

    def start_bundle(self) -> None:
        self._waiting: dict[Bucket | None, list[Any]] = {}
        self.metrics = BundleMetrics()

    def process(self, element: Any) -> None:
        self._waiting.setdefault(self.key_of(element), []).append(element)

    def finish_bundle(self) -> list[Any]:
        with ThreadPoolExecutor(AT_ONCE) as threads:
            futures = [threads.submit(self._in_turn, elements) for elements in self._waiting.values()]
        self.metrics.report()
        return [result for future in futures for result in future.result()]

    def _in_turn(self, elements: Iterable[Any]) -> list[Any]:
        return [result for element in elements for result in self.process_one(element)]

    def key_of(self, element: Any) -> Bucket | None:
        """The key of an element: elements with the same one are processed in turn."""
        raise NotImplementedError

    def process_one(self, element: Any) -> list[Any]:
        """Process one element, and return windowed values or tagged outputs of them."""
        raise NotImplementedError
