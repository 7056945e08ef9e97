"""Base of steps that wait for a store: the buckets of a bundle are processed in parallel."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import apache_beam as beam

from schemas.buckets import Bucket
from transforms.metrics import BundleMetrics

AT_ONCE = 8
"""Commits or loads that a worker runs in parallel. Each is a dozen round trips to a store, which serves many at a time."""


class ParallelByBucket(beam.DoFn):  # type: ignore[misc]
    """Process the buckets of a bundle in parallel threads, and the elements of one bucket in turn.

    The results are emitted when all buckets are done. Only then is the first error raised, so that the failure of one bucket
    does not stop the others.
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
        """Return the key of an element. Elements with the same key are processed in turn."""
        raise NotImplementedError

    def process_one(self, element: Any) -> list[Any]:
        """Process one element, and return windowed values, or tagged outputs of windowed values."""
        raise NotImplementedError
