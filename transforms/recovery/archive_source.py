"""A source of archived messages, in batches that fit into memory, for a runner in this process."""

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

BATCH_MESSAGES = 100_000
"""Messages of a full batch."""
BATCH_BYTES = 64 * 1024 * 1024
"""Bytes of message data after which a batch is full."""
PROGRESS_EVERY = 100
"""Files between two lines of progress in the log."""

_log = logging.getLogger(__name__)


class Reading:
    """One pass over archive files."""

    def __init__(self, archive: ObjectStore, files: Sequence[str], wanted: Wanted) -> None:
        """Read the wanted messages of `files`."""
        self.problems: list[str] = []
        """Messages about the parts of files that could not be read, so far."""
        self.found: set[tuple[str, str]] = set()
        """Event types and ids of the messages so far, if `wanted` has ids."""
        self.hours: set[datetime] = set()
        """Hours of the messages' events so far."""
        self.messages = 0
        """Number of messages so far."""
        self._archive = archive
        self._files = files
        self._wanted = wanted

    def batches(self) -> Iterator[tuple[deque[PubsubMessage], bool]]:
        """Yield batches of wanted messages, and whether each is the last. Yields an empty batch if there is no message."""
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
                _log.info("%d of %d archive files read, %d messages found", number, len(self._files), self.messages)


class ReadBatch(beam.PTransform):  # type: ignore[misc]
    """Emit the messages of a batch, once. Each is removed from the batch, so that it needs no memory any longer."""

    def __init__(self, batch: deque[PubsubMessage]) -> None:
        """Emit the messages of `batch`, which is empty afterwards."""
        super().__init__()
        # Beam pickles the arguments of a step. A Shared returns the same object, as long as it is referenced.
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
