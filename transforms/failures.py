"""Troubles: what a stream on one machine could not deliver or load, and goes on without until somebody has mended it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from schemas.buckets import bucket_of

TELL_AGAIN_SECONDS = 600.0
"""Between two warnings of one trouble."""

PAUSES = 10
"""Messages that have not come again in so many pauses are not waited for: somebody else has taken them, or they are gone. Those
that come even later are late."""

_log = logging.getLogger(__name__)


@dataclass
class _Trouble:
    why: str
    """The error as a user is told of it."""
    told: float
    since: float
    """Of its last time, on the clock that only goes forward."""
    keeps_back: bool
    """Whether messages were put off because of it."""


class Troubles:
    """The troubles that are not over, by what they are about: a bucket's folder, or something in it. Safe for threads.

    pause: seconds until a message comes again that was put off.
    """

    def __init__(self, pause: Callable[[], float], clock: Callable[[], float] = time.monotonic) -> None:
        self._pause = pause
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[str, _Trouble] = {}

    def met(self, name: str, why: str, keeps_back: bool = False) -> None:
        """Something is in trouble, or still is. It is told at once, and then now and then; `why` names where and what to do."""
        now = self._clock()
        with self._lock:
            known = self._known.get(name)
            tell = known is None or known.why != why or now >= known.told + TELL_AGAIN_SECONDS
            told = now if known is None or tell else known.told
            self._known[name] = _Trouble(why, told, now, keeps_back or (known is not None and known.keeps_back))
        if tell:
            _log.warning("%s. The rest goes on, and this is tried again", why.rstrip("."))

    def keeps_back(self, name: str, brings: bool) -> bool:
        """Whether messages that belong there may not have come again yet, though all goes well now.

        brings: whether some of them have: what is put off comes again when its pause is over, and is refused again or not.
        """
        with self._lock:
            known = self._known.get(name)
            if known is None or not known.keeps_back:
                return False
            return self._clock() < known.since + self._pause() * (1 if brings else PAUSES)

    def over(self, name: str, brings: bool = False) -> None:
        """What was tried there has succeeded. A trouble that keeps messages back is over when they have come again."""
        if name not in self._known or self.keeps_back(name, brings):
            return
        with self._lock:
            mended = self._known.pop(name, None)
        if mended:
            _log.info("%s: all goes well again", name)

    def hours(self) -> set[datetime]:
        """The hours of the buckets that they are about."""
        with self._lock:
            return {bucket.hour for name in self._known if (bucket := bucket_of(f"{name}/"))}

    def left(self) -> list[str]:
        """Those that are not over."""
        with self._lock:
            return sorted(known.why for known in self._known.values())
