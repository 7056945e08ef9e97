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
"""Between two warnings of one failure."""

PAUSES = 10
"""Nacked messages that are not redelivered within this many pauses are not waited for: another subscriber has pulled them, or
they are gone. Any that come even later are late."""

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
    """Whether messages were nacked because of it."""


class FailureTracker:
    """The unresolved failures, by name: a bucket's folder, or an object in it. Thread-safe.

    pause: seconds until a nacked message is redelivered.
    """

    def __init__(self, pause: Callable[[], float], clock: Callable[[], float] = time.monotonic) -> None:
        self._pause = pause
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[str, _Failure] = {}

    def failed(self, name: str, message: str, blocks_closing: bool = False) -> None:
        """Record a failure. It is logged at once and then now and then; `message` says where it happened and what to do."""
        now = self._clock()
        with self._lock:
            known = self._known.get(name)
            warns = known is None or known.message != message or now >= known.warned_at + WARN_AGAIN_SECONDS
            warned_at = now if known is None or warns else known.warned_at
            blocks = blocks_closing or (known is not None and known.blocks_closing)
            self._known[name] = _Failure(message, warned_at, now, blocks)
        if warns:
            _log.warning("%s: skipping this bucket, will retry", message.rstrip("."))

    def blocks_closing(self, name: str, has_messages: bool) -> bool:
        """Whether nacked messages of the bucket may still be outstanding, even though the last attempt succeeded.

        has_messages: whether some of them are in this attempt: nacked messages are redelivered after a pause, and may fail
        again.
        """
        with self._lock:
            known = self._known.get(name)
            if known is None or not known.blocks_closing:
                return False
            return self._clock() < known.failed_at + self._pause() * (1 if has_messages else PAUSES)

    def recovered(self, name: str, has_messages: bool = False) -> None:
        """Record a success. A failure whose messages were nacked is resolved once they are redelivered."""
        if name not in self._known or self.blocks_closing(name, has_messages):
            return
        with self._lock:
            resolved = self._known.pop(name, None)
        if resolved:
            _log.info("%s: recovered", name)

    def hours(self) -> set[datetime]:
        """The hours of the buckets with unresolved failures."""
        with self._lock:
            return {bucket.hour for name in self._known if (bucket := bucket_of(f"{name}/"))}

    def unresolved(self) -> list[str]:
        """The messages of the unresolved failures."""
        with self._lock:
            return sorted(known.message for known in self._known.values())
