"""A source that gives what is wanted from the archive, batch by batch, to an engine that works in this process."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from datetime import datetime

import apache_beam as beam
from apache_beam.io.gcp.pubsub import PubsubMessage
from apache_beam.utils.shared import Shared

from storage.objects.base import ObjectStore
from transforms.recovery.archive import Wanted, key_of, read_messages

BATCH_MESSAGES, BATCH_BYTES = 100_000, 64 * 1024 * 1024
"""A batch ends with the message that brings it to one of them. Bytes are those of the data."""
PROGRESS_EVERY = 100
"""Files between two lines that say how far the reading is."""

_log = logging.getLogger(__name__)


class Reading:
    """One reading of archive files: what was found, and what could not be read.

    found: event types and ids, where only some are wanted; hours: those of the messages' events; messages: how many were given.
    """

    def __init__(self, archive: ObjectStore, files: Sequence[str], wanted: Wanted) -> None:
        self.problems: list[str] = []
        self.found: set[tuple[str, str]] = set()
        self.hours: set[datetime] = set()
        self.messages = 0
        self._archive = archive
        self._files = files
        self._wanted = wanted

    def batches(self) -> Iterator[tuple[deque[PubsubMessage], bool]]:
        """The wanted messages, in batches that fit into memory, and whether it is the last one; at least one, maybe empty."""
        batch: deque[PubsubMessage] = deque()
        size = 0
        for message in self._read():
            if len(batch) >= BATCH_MESSAGES or size >= BATCH_BYTES:
                yield batch, False
                batch, size = deque(), 0
            batch.append(message)
            size += len(message.data)
        yield batch, True

    def _read(self) -> Iterator[PubsubMessage]:
        for number, file in enumerate(self._files, 1):
            known = len(self.problems)
            for hour, message in read_messages(self._archive, file, self._wanted, self.problems):
                if self._wanted.ids is not None:
                    self.found.add(key_of(message))
                self.hours.add(hour)
                self.messages += 1
                yield message
            for problem in self.problems[known:]:
                _log.error("%s", problem)
            if number % PROGRESS_EVERY == 0:
                _log.info("%d of %d archive files read, %d messages taken", number, len(self._files), self.messages)


class ReadBatch(beam.PTransform):  # type: ignore[misc]
    """Gives the messages of a batch, once, and lets go of each."""

    def __init__(self, batch: deque[PubsubMessage]) -> None:
        super().__init__()
        # Beam pickles what a step is given. A Shared returns the object itself, as long as somebody refers to it.
        self._shared = Shared()
        self._handover = self._shared.acquire(lambda: deque([batch]))

    def expand(self, begin: beam.Pipeline) -> beam.PCollection:
        start = begin | "Batch" >> beam.Create([b""], reshuffle=False)
        return start | "Messages" >> beam.FlatMap(_drain, self._shared).with_output_types(PubsubMessage)


def _drain(_: bytes, shared: Shared) -> Iterator[PubsubMessage]:
    """Emit the batch. Raises IndexError the second time, and in another process, rather than emit less than the batch."""
    batch: deque[PubsubMessage] = shared.acquire(deque).pop()
    while batch:
        yield batch.popleft()
