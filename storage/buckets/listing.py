"""Hours: which buckets there are, and which of them have to be looked at, though no event may have come for them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from datetime import datetime
from itertools import groupby

from schemas.buckets import EVENT_TYPE_NAME, Bucket, bucket_of, stream_folder
from storage.objects.base import ObjectStore


def event_types_of(store: ObjectStore) -> set[str]:
    """The event types that have ever had a bucket. Asks for one name of each."""
    found: set[str] = set()
    start = ""
    while (name := next(store.list("events/", start), None)) is not None:
        event_type = name.split("/")[1]
        if EVENT_TYPE_NAME.fullmatch(event_type):
            found.add(event_type)
        start = f"events/{event_type}0"  # the first name beyond the folder: 0 comes after the slash
    return found


def buckets_of(store: ObjectStore, stream: str, first: datetime, last: datetime) -> Iterator[Bucket]:
    """The stream's buckets from the hour `first` to `last`, both included, in order, that hold anything. Only lists names."""
    before = None
    for name in store.list(f"{stream_folder(stream)}/", Bucket(stream, first).folder):
        bucket = bucket_of(name)
        if bucket is None or bucket == before:
            continue
        if bucket.hour > last:
            return
        before = bucket
        yield bucket


def open_hours(store: ObjectStore, streams: Iterable[str], since: datetime) -> set[datetime]:
    """The hours from the day of `since` on in which something is left to do: a bucket of one of the streams was begun, and is
    not closed, or its newest manifest is not loaded. Only lists names.
    """
    result = set()
    for stream in streams:
        start = f"{stream_folder(stream)}/dt={since:%Y-%m-%d}"
        # In the order of their names those of a bucket come one after the other.
        for bucket, names in groupby(store.list(f"{stream_folder(stream)}/", start), bucket_of):
            if bucket and not _is_done(bucket, frozenset(names)):
                result.add(bucket.hour)
    return result


def _is_done(bucket: Bucket, names: Collection[str]) -> bool:
    newest = 0
    while bucket.version_name(newest + 1) in names:
        newest += 1
    return bucket.success_name in names and bucket.loaded_name(newest) in names
