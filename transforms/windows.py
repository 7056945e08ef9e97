"""Hourly windows, and elements that carry the hour they belong to."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import apache_beam as beam
from apache_beam.transforms.trigger import AccumulationMode, AfterCount, AfterProcessingTime, AfterWatermark
from apache_beam.transforms.window import FixedWindows, GlobalWindow, GlobalWindows
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from schemas.buckets import HOUR

PANE_EVERY = timedelta(minutes=10)
"""How often an hour that goes on, or goes on after its end, is written and loaded. Each load job counts against BigQuery's
1,500 a table and day, and 100,000 a project and day: six an hour make 144 a table, which leaves room for 690 tables."""

LOAD_EVERY = timedelta(minutes=5)
"""How often a stream on one machine loads an hour that goes on."""

LONGEST_LIFE = timedelta(days=32)
"""Pub/Sub keeps a message for 31 days at most. Beam drops what is later than the lateness it allows: with this, nothing is."""


class HourlyWindows(beam.PTransform):  # type: ignore[misc]
    """Hourly windows that give each element once: while the hour goes on, when it is over, and whatever comes after.

    ends: the source ends by itself, so that everything is there when the watermark passes; its engine has no clock for panes.
    every: how long after its first element a pane comes, of an hour that goes on or is over.
    """

    def __init__(self, allowed_lateness: timedelta, ends: bool, every: timedelta = PANE_EVERY) -> None:
        super().__init__()
        repeatedly = AfterProcessingTime(int(every.total_seconds()))
        # Made once: where collections join, Beam wants their windows and triggers to be the same.
        self._windows = FixedWindows(int(HOUR.total_seconds()))
        self._trigger = AfterWatermark(late=AfterCount(1)) if ends else AfterWatermark(early=repeatedly, late=repeatedly)
        self._lateness = int((allowed_lateness + LONGEST_LIFE).total_seconds())

    def expand(self, elements: beam.PCollection) -> beam.PCollection:
        return elements | beam.WindowInto(
            self._windows,
            trigger=self._trigger,
            accumulation_mode=AccumulationMode.DISCARDING,
            allowed_lateness=self._lateness,
        )


def in_hour(value: Any, hour: datetime) -> WindowedValue:
    """The value with the hour as its timestamp, not yet assigned to a window."""
    return WindowedValue(value, Timestamp.of(hour.timestamp()), [GlobalWindow()])


class Gather(beam.PTransform):  # type: ignore[misc]
    """Takes texts of a run that ends. Gives all of them at once, when it has taken the last; nothing where there are none."""

    def expand(self, texts: beam.PCollection) -> beam.PCollection:
        at_the_end = beam.WindowInto(GlobalWindows(), trigger=AfterWatermark(), accumulation_mode=AccumulationMode.DISCARDING)
        keyed = texts | "To one key" >> beam.WithKeys(b"").with_output_types(tuple[bytes, str])
        return keyed | "Last" >> at_the_end | "Group" >> beam.GroupByKey() | beam.Values()
