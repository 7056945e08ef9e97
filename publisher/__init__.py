"""Client library that publishes events to Pub/Sub and reports to the audit how many were acknowledged. Needs no Beam.

    from publisher import EventPublisher

    with EventPublisher("projects/p/topics/events", "projects/p/topics/audit") as publisher:
        publisher.publish("track_skipped", {"track_id": "t1", ...})
    for failure in publisher.failures:
        ...

On the command line: `python -m publisher publish FILE.ndjson --topic T` and `python -m publisher simulate --topic T`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from publisher.client import EventPublisher
    from publisher.counts import Ledger
    from publisher.errors import Failure, Outgoing, PublisherError, Unreported

__all__ = ["EventPublisher", "Failure", "Ledger", "Outgoing", "PublisherError", "Unreported"]

_MODULES = {
    "EventPublisher": "publisher.client",
    "Failure": "publisher.errors",
    "Ledger": "publisher.counts",
    "Outgoing": "publisher.errors",
    "PublisherError": "publisher.errors",
    "Unreported": "publisher.errors",
}


def __getattr__(name: str) -> Any:
    """Import a name when it is first used: `python -m publisher` runs this file before it can handle Ctrl-C."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
