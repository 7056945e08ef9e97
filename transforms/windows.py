"""Hourly windows, and elements whose timestamp is the hour of their bucket."""

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
"""How often the data of an hour is written and loaded, while the hour lasts and when late data arrives after it. BigQuery
allows 1,500 load jobs per table and day, and 100,000 per project and day. Six an hour make 144 a table and day, enough for 690
tables."""

LOAD_EVERY = timedelta(minutes=5)
"""How often a stream on one machine loads an hour that is not over."""

LONGEST_LIFE = timedelta(days=32)
"""More than the longest life of a message: Pub/Sub retains one for 31 days at most. Beam's allowed lateness includes this,
so it never drops an element."""


class HourlyWindows(beam.PTransform):  # type: ignore[misc]
    """Assign elements to hourly windows whose panes emit each element once.

    A pane fires repeatedly while the hour lasts, when the watermark passes its end, and repeatedly for late elements.
    """

    def __init__(self, allowed_lateness: timedelta, bounded: bool, every: timedelta = PANE_EVERY) -> None:
        """Configure the windows.

        Args:
            allowed_lateness: How long after its hour an event may be published and still belong to it.
            bounded: Whether the source is bounded. Then an hour has one pane, when the watermark passes its end: all of its
                elements are there by then, and the runner of such runs has no clock for other triggers.
            every: Time from the first element of an early or late pane until the pane fires. Whole seconds.
        """
        super().__init__()
        repeatedly = AfterProcessingTime(int(every.total_seconds()))
        # One instance, because Beam can flatten collections only if their windowing is the same.
        self._windows = FixedWindows(int(HOUR.total_seconds()))
        self._trigger = AfterWatermark(late=AfterCount(1)) if bounded else AfterWatermark(early=repeatedly, late=repeatedly)
        self._lateness = int((allowed_lateness + LONGEST_LIFE).total_seconds())

    def expand(self, elements: beam.PCollection) -> beam.PCollection:
        return elements | beam.WindowInto(
            self._windows,
            trigger=self._trigger,
            accumulation_mode=AccumulationMode.DISCARDING,
            allowed_lateness=self._lateness,
        )


def in_hour(value: Any, hour: datetime) -> WindowedValue:
    """Return the value with the hour as its timestamp, in the global window."""
    return WindowedValue(value, Timestamp.of(hour.timestamp()), [GlobalWindow()])


class Gather(beam.PTransform):  # type: ignore[misc]
    """Collect the texts of a bounded run into one list, emitted when the source has ended. Emit nothing if there are none."""

    def expand(self, texts: beam.PCollection) -> beam.PCollection:
        at_the_end = beam.WindowInto(GlobalWindows(), trigger=AfterWatermark(), accumulation_mode=AccumulationMode.DISCARDING)
        keyed = texts | "To one key" >> beam.WithKeys(b"").with_output_types(tuple[bytes, str])
        return keyed | "Last" >> at_the_end | "Group" >> beam.GroupByKey() | beam.Values()
