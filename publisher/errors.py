"""Errors and failures of the publisher, each with a message of one line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from schemas.audit_reports import PublishedReport
from schemas.errors import EventDeliveryError


class PublisherError(EventDeliveryError):
    """Publishing can't start or continue. The message contains the cause and what to do."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to be published."""

    data: bytes
    attributes: Mapping[str, str]
    source: object = None
    """Any object by which the caller identifies the message if it fails."""


@dataclass(frozen=True)
class Failure:
    """An event that Pub/Sub did not acknowledge. It may have been published all the same."""

    event: Outgoing
    error: str
    """The cause, in one line."""


@dataclass(frozen=True)
class Unreported:
    """A report that Pub/Sub did not acknowledge."""

    report: PublishedReport
    error: str
    """The cause, in one line."""


def one_line(error: BaseException) -> str:
    """Return a library's error message as one line of at most 300 characters, without a full stop at its end."""
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
