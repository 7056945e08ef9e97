"""What can go wrong for a user of the publisher, in words of one line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from schemas.audit_reports import PublishedReport
from schemas.errors import EventDeliveryError


class PublisherError(EventDeliveryError):
    """Nothing can be published. The message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to Pub/Sub. source: whatever the caller wants to find again if it fails."""

    data: bytes
    attributes: Mapping[str, str]
    source: object = None


@dataclass(frozen=True)
class Failure:
    """An event that Pub/Sub did not acknowledge, so that nobody knows whether it is there; and why, in one line."""

    event: Outgoing
    error: str


@dataclass(frozen=True)
class Unreported:
    """A report that Pub/Sub did not acknowledge, and why, in one line."""

    report: PublishedReport
    error: str


def one_line(error: BaseException) -> str:
    """What an error of a library says, in one line of bearable length, with no full stop at its end."""
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
