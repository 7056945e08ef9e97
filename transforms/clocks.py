"""Clocks and names: what tells one attempt from another, always handed in, so that tests can hold it still."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import uuid4

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """The wall clock."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class Fixed:
    """A clock that stands still."""

    moment: datetime

    def __call__(self) -> datetime:
        return self.moment


def new_id() -> str:
    """A name that no other attempt uses."""
    return uuid4().hex
