"""Hours: which buckets have to be looked at, though no event may have come for them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime, timedelta

from schemas.buckets import HOUR, Bucket, bucket_of, stream_folder
from transforms.buckets import Buckets

LONGEST_SILENCE = timedelta(hours=24)
"""Hours without any event, between two with some, are closed as empty; but a gap longer than this parts two stretches."""


def hours_between(seen: Collection[datetime]) -> list[datetime]:
    """The hours in which a run saw events of any type, and the silent ones between them, in order."""
    hours: list[datetime] = []
    for hour in sorted(seen):
        if hours and hour - hours[-1] <= LONGEST_SILENCE:
            while hours[-1] + HOUR < hour:
                hours.append(hours[-1] + HOUR)
        hours.append(hour)
    return hours


def open_hours(buckets: Buckets, streams: Iterable[str], since: datetime) -> set[datetime]:
    """The hours from `since` on in which a bucket of one of the streams was begun and is not closed. Only lists names."""
    result = set()
    for stream in streams:
        begun: set[Bucket] = set()
        closed: set[Bucket] = set()
        start = f"{stream_folder(stream)}/dt={since:%Y-%m-%d}"
        for name in buckets.list(f"{stream_folder(stream)}/", start):
            bucket = bucket_of(name)
            if bucket:
                (closed if name == bucket.success_name else begun).add(bucket)
        result |= {bucket.hour for bucket in begun - closed}
    return result
