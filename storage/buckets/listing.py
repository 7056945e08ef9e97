"""List the buckets of a store, and the hours that still have to be closed or loaded. Only names are listed, nothing is read."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from datetime import datetime
from itertools import groupby

from schemas.buckets import EVENT_TYPE_NAME, Bucket, bucket_of, stream_folder
from storage.objects.base import ObjectStore


def event_types_of(store: ObjectStore) -> set[str]:
    """Return the event types that have ever had a bucket. Requests one name per event type."""
    event_types: set[str] = set()
    start = ""
    while (name := next(store.list("events/", start), None)) is not None:
        event_type = name.split("/")[1]
        if EVENT_TYPE_NAME.fullmatch(event_type):
            event_types.add(event_type)
        start = f"events/{event_type}0"  # The first possible name after the folder: 0 follows the slash.
    return event_types


def buckets_of(store: ObjectStore, stream: str, first: datetime, last: datetime) -> Iterator[Bucket]:
    """Yield, in order, the buckets of a stream that have an object, from the hour `first` to `last`, both included."""
    previous = None
    for name in store.list(f"{stream_folder(stream)}/", Bucket(stream, first).folder):
        bucket = bucket_of(name)
        if bucket is None or bucket == previous:
            continue
        if bucket.hour > last:
            return
        previous = bucket
        yield bucket


def open_hours(store: ObjectStore, streams: Iterable[str], since: datetime) -> set[datetime]:
    """Return the unfinished hours from the day of `since` on.

    An hour is unfinished if one of the streams has a bucket that is not closed, or whose newest manifest is not loaded.
    """
    hours = set()
    for stream in streams:
        start = f"{stream_folder(stream)}/dt={since:%Y-%m-%d}"
        # Names are sorted, so those of one bucket are adjacent.
        for bucket, names in groupby(store.list(f"{stream_folder(stream)}/", start), bucket_of):
            if bucket and not _is_done(bucket, frozenset(names)):
                hours.add(bucket.hour)
    return hours


def _is_done(bucket: Bucket, names: Collection[str]) -> bool:
    newest = 0
    while bucket.version_name(newest + 1) in names:
        newest += 1
    return bucket.success_name in names and bucket.loaded_name(newest) in names
