"""The metrics of deliver: all of them, with kind, unit and meaning. `docs/metrics.md` has the same table.

A step updates its metrics once a bundle, from Beam's own thread: Beam silently drops updates from threads that a step has
started. A step with threads collects values in a `BundleMetrics`, and reports them when the threads are done.

Metrics are for dashboards and alerts, not for accounting: a runner may drop those of a bundle that it retries. The counters in
manifests are exact.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any

from apache_beam.metrics import Metrics

NAMESPACE = "deliver"


class Kind(Enum):
    """How Beam aggregates the values of a metric."""

    COUNTER = "counter"
    """The sum."""
    DISTRIBUTION = "distribution"
    """Count, sum, minimum and maximum."""


@dataclass(frozen=True)
class Metric:
    """One metric, as declared below."""

    name: str
    kind: Kind
    unit: str
    description: str

    @cached_property
    def beam(self) -> Any:
        """Beam's metric of this name, to be updated from Beam's own thread."""
        make = Metrics.counter if self.kind is Kind.COUNTER else Metrics.distribution
        return make(NAMESPACE, self.name)


def _counter(name: str, unit: str, description: str) -> Metric:
    return Metric(name, Kind.COUNTER, unit, description)


def _distribution(name: str, unit: str, description: str) -> Metric:
    return Metric(name, Kind.DISTRIBUTION, unit, description)


MESSAGES_RECEIVED = _counter("messages_received", "messages", "Messages decoded, redelivered ones included.")
EVENTS_SKEWED = _counter(
    "events_skewed", "events", "Events published after the allowed lateness, which go to the hour of their publish time."
)
DATA_FILES_WRITTEN = _counter("data_files_written", "files", "Data files that the write step stored in staging.")
BYTES_WRITTEN = _counter("bytes_written", "bytes", "Size of these files, without their id indexes.")
EVENTS_DELIVERED = _counter("events_delivered", "events", "Events that became rows of a bucket.")
EVENTS_DUPLICATE = _counter("events_duplicate", "events", "Events dropped since their ids were delivered already.")
DEAD_LETTERS_ADDED = _counter(
    "dead_letters", "dead letters", "Messages and events that break their contract, or conflict with a delivered event."
)
EVENTS_LATE = _counter("events_late", "rows", "Rows and dead letters added to a bucket after it had closed.")
COMMITS = _counter("commits", "committables", "Committables that became part of a bucket.")
COMMIT_CONFLICTS = _counter("commit_conflicts", "attempts", "Attempts to commit or close that lost a race and were retried.")
BUCKETS_CLOSED = _counter("buckets_closed", "buckets", "Buckets closed, empty ones included.")
CLOSE_DELAY = _distribution("close_delay", "seconds", "Time from the end of a bucket's hour until the bucket closed.")
BUCKETS_SKIPPED = _counter(
    "buckets_skipped", "attempts", "Writes and commits skipped because objects of the bucket are damaged or missing."
)
PARTITIONS_LOADED = _counter("partitions_loaded", "partitions", "Table partitions replaced by the files of their bucket.")
ROWS_LOADED = _counter("rows_loaded", "rows", "Rows of these partitions. A row counts each time it is loaded.")
LOAD_TIME = _distribution("load_time", "milliseconds", "Duration of a load that succeeded.")
LOADS_FAILED = _counter("loads_failed", "partitions", "Loads that failed. The partition keeps its rows, and is loaded later.")
REPORTS_PUBLISHED = _counter("reports_published", "reports", "Reports of a manifest's counters that the audit topic accepted.")

METRICS = [metric for metric in dict(globals()).values() if isinstance(metric, Metric)]
"""All metrics, in the order of the flow."""


class BundleMetrics:
    """The values that one bundle of a step collects. `add` and `observe` are thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sums: defaultdict[Metric, int] = defaultdict(int)
        self._values: list[tuple[Metric, int]] = []

    def add(self, counter: Metric, value: int = 1) -> None:
        """Add to a counter."""
        with self._lock:
            self._sums[counter] += value

    def observe(self, distribution: Metric, value: float) -> None:
        """Add a value to a distribution, which keeps whole numbers."""
        with self._lock:
            self._values.append((distribution, round(value)))

    def report(self) -> None:
        """Update Beam's metrics and reset. Call it from a method that Beam calls, once all other threads are done."""
        for counter, value in self._sums.items():
            counter.beam.inc(value)
        for distribution, value in self._values:
            distribution.beam.update(value)
        self._sums.clear()
        self._values.clear()
