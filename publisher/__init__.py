"""Publishes events, keeps every answer, and reports what Pub/Sub has taken: the first of the audit's witnesses. Needs no Beam.

    from publisher import EventPublisher

    with EventPublisher("projects/p/topics/events", "projects/p/topics/audit") as publisher:
        publisher.publish("track_skipped", {"track_id": "t1", ...})
    for failure in publisher.failures:
        ...

On the command line: `python -m publisher publish FILE.ndjson --topic T` and `python -m publisher simulate --topic T`.
"""

from publisher.client import EventPublisher
from publisher.counts import Ledger
from publisher.errors import Failure, Outgoing, PublisherError, Unreported

__all__ = ["EventPublisher", "Failure", "Ledger", "Outgoing", "PublisherError", "Unreported"]
