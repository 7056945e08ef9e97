"""A source that gives what is wanted from the archive, to an engine that works in this process."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator, Sequence
from typing import Self

import apache_beam as beam
from apache_beam.io.gcp.pubsub import PubsubMessage

from transforms.archive import Wanted, key_of, read_messages
from transforms.buckets import Buckets

PROGRESS_EVERY = 100
"""Files between two lines that say how far the reading is."""

_log = logging.getLogger(__name__)

_readings: dict[str, Reading] = {}


class Reading:
    """One reading of archive files, as a block: what was found, and what could not be read.

    found: event types and ids, where only some are wanted; messages: how many were given.
    """

    def __init__(self, archive: Buckets, files: Sequence[str], wanted: Wanted) -> None:
        self.name = uuid.uuid4().hex
        self.files = list(files)
        self.problems: list[str] = []
        self.found: set[tuple[str, str]] = set()
        self.messages = 0
        self._archive = archive
        self._wanted = wanted
        self._read = 0

    def __enter__(self) -> Self:
        _readings[self.name] = self
        return self

    def __exit__(self, *_: object) -> None:
        _readings.pop(self.name)

    def read(self, file: str) -> Iterator[PubsubMessage]:
        """The wanted messages of one of the files."""
        known = len(self.problems)
        for message in read_messages(self._archive, file, self._wanted, self.problems):
            if self._wanted.ids is not None:
                self.found.add(key_of(message))
            self.messages += 1
            yield message
        for problem in self.problems[known:]:
            _log.error("%s", problem)
        self._read += 1
        if self._read % PROGRESS_EVERY == 0:
            _log.info("%d of %d archive files read, %d messages taken", self._read, len(self.files), self.messages)


class ReadArchive(beam.PTransform):  # type: ignore[misc]
    """Gives the messages of a reading whose block this process is in."""

    def __init__(self, reading: Reading) -> None:
        super().__init__()
        self._files = reading.files
        self._fn = _Read(reading.name)

    def expand(self, begin: beam.Pipeline) -> beam.PCollection:
        files = begin | "Files" >> beam.Create(self._files, reshuffle=False)
        return files | "Messages" >> beam.ParDo(self._fn).with_output_types(PubsubMessage)


class _Read(beam.DoFn):  # type: ignore[misc]
    # By name: Beam works with a copy of this object.
    def __init__(self, reading: str) -> None:
        self._reading = reading

    def process(self, element: str) -> Iterator[PubsubMessage]:
        return _readings[self._reading].read(element)
