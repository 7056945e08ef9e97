"""Side by side: what a bundle's elements ask of a store, asked at once."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import apache_beam as beam

from schemas.buckets import Bucket

AT_ONCE = 8
"""Commits and loads that a worker makes side by side: each is a dozen round trips to a store that has time for many."""


class SideBySide(beam.DoFn):  # type: ignore[misc]
    """Works on the buckets of a bundle side by side, in threads, and on the elements of one bucket in turn. What `act` gives is
    put out when all are done; the first error is raised then, so that one bucket's trouble keeps no other from being worked on.
    """

    def start_bundle(self) -> None:
        self._waiting: dict[Bucket | None, list[Any]] = {}

    def process(self, element: Any) -> None:
        self._waiting.setdefault(self.bucket_of(element), []).append(element)

    def finish_bundle(self) -> list[Any]:
        with ThreadPoolExecutor(AT_ONCE) as threads:
            futures = [threads.submit(self._in_turn, elements) for elements in self._waiting.values()]
        return [given for future in futures for given in future.result()]

    def _in_turn(self, elements: Iterable[Any]) -> list[Any]:
        return [given for element in elements for given in self.act(element)]

    def bucket_of(self, element: Any) -> Bucket | None:
        """What belongs to one bucket is worked on one after the other."""
        raise NotImplementedError

    def act(self, element: Any) -> list[Any]:
        """Takes an element, gives windowed values, or tagged outputs of such."""
        raise NotImplementedError
