"""Clocks and unique names. Both are passed to the code that needs them, so that tests can fix them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import uuid4

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """Return the time of the wall clock, in UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class Fixed:
    """A clock that stands still."""

    moment: datetime

    def __call__(self) -> datetime:
        return self.moment


def new_id() -> str:
    """Return a unique name: 32 hex digits."""
    return uuid4().hex
