"""The buckets and partitions that a stream on one machine failed to deliver or load, skipped until a retry succeeds."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from schemas.buckets import bucket_of

WARN_AGAIN_SECONDS = 600.0
"""Time between two warnings about the same failure."""

PAUSES = 10
"""How many pauses a bucket waits for nacked messages before it may close. Messages that are not redelivered by then were pulled
by another subscriber or have expired. Any that arrive later still are late."""

_log = logging.getLogger(__name__)


@dataclass
class _Failure:
    message: str
    """The error, as logged."""
    warned_at: float
    """Monotonic time of the last warning, in seconds."""
    failed_at: float
    """Monotonic time of the last attempt, in seconds."""
    blocks_closing: bool
    """Whether messages were nacked because of the failure."""


class FailureTracker:
    """The unresolved failures of a stream, by name: a bucket's folder, or an object in it. Thread-safe."""

    def __init__(self, pause: Callable[[], float], clock: Callable[[], float] = time.monotonic) -> None:
        """Track failures.

        Args:
            pause: Returns the seconds until a nacked message is redelivered.
            clock: Returns monotonic seconds.
        """
        self._pause = pause
        self._clock = clock
        self._lock = threading.Lock()
        self._by_name: dict[str, _Failure] = {}

    def failed(self, name: str, message: str, blocks_closing: bool = False) -> None:
        """Record a failure, and log it unless the same one was logged within WARN_AGAIN_SECONDS.

        Args:
            name: The bucket's folder, or an object in it.
            message: The object, the cause and the remedy.
            blocks_closing: Whether messages of the bucket were nacked, so that it must not close before they return.
        """
        now = self._clock()
        with self._lock:
            failure = self._by_name.get(name)
            warns = failure is None or failure.message != message or now >= failure.warned_at + WARN_AGAIN_SECONDS
            warned_at = now if failure is None or warns else failure.warned_at
            blocks = blocks_closing or (failure is not None and failure.blocks_closing)
            self._by_name[name] = _Failure(message, warned_at, now, blocks)
        if warns:
            _log.warning("%s: skipping this bucket, will retry", message.rstrip("."))

    def blocks_closing(self, name: str, has_messages: bool) -> bool:
        """Whether nacked messages of the bucket may still be outstanding, even though the last attempt succeeded.

        Args:
            name: The bucket's folder.
            has_messages: Whether the attempt contained messages. Then all nacked ones are back after one pause, unless they
                fail again.
        """
        with self._lock:
            failure = self._by_name.get(name)
            if failure is None or not failure.blocks_closing:
                return False
            return self._clock() < failure.failed_at + self._pause() * (1 if has_messages else PAUSES)

    def recovered(self, name: str, has_messages: bool = False) -> None:
        """Record a success. If messages were nacked, the failure is resolved only once they are redelivered."""
        if name not in self._by_name or self.blocks_closing(name, has_messages):
            return
        with self._lock:
            resolved = self._by_name.pop(name, None)
        if resolved:
            _log.info("%s: recovered", name)

    def hours(self) -> set[datetime]:
        """Return the hours of the buckets with unresolved failures."""
        with self._lock:
            return {bucket.hour for name in self._by_name if (bucket := bucket_of(f"{name}/"))}

    def unresolved(self) -> list[str]:
        """Return the messages of the unresolved failures, sorted."""
        with self._lock:
            return sorted(failure.message for failure in self._by_name.values())
