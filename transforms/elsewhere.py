"""Elsewhere: what is dropped because another hour holds it is written down, so that an audit can look after it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from io import BytesIO
from typing import Any

import numpy as np
from fastavro import parse_schema, schemaless_reader
from numpy.typing import NDArray

from schemas import elsewhere
from schemas.buckets import STAGING, Bucket, hour_of
from schemas.elsewhere import Elsewhere
from schemas.envelope import ENVELOPE_FIELDS
from schemas.shards import Shard
from transforms.buckets import Buckets, BucketsError

# The envelope's fields come first in every event's record, and no more than these is read.
_ENVELOPE: Any = parse_schema({"type": "record", "name": "envelope", "fields": list(ENVELOPE_FIELDS)})


def published_for(record: bytes, own: datetime) -> datetime:
    """The hour that an event was published for: that of its bucket, or an earlier one that it came too late for."""
    row: Any = schemaless_reader(BytesIO(record), _ENVELOPE, None)
    return hour_of(row["skewed_from"] or own)


def write_elsewhere(buckets: Buckets, shard: Shard, unique: str, entries: Iterable[bytes]) -> tuple[Elsewhere, ...]:
    """Stores entries (`schemas.elsewhere`) in staging under a name that ends in `unique`; no file where there is none."""
    data, count = elsewhere.packed(entries)
    if not count:
        return ()
    name = f"elsewhere-{shard}-{unique}.ids"
    return (Elsewhere(name, count, buckets.write(f"{STAGING}/{name}", data).crc32c),)


def read_elsewhere(buckets: Buckets, bucket: Bucket, file: Elsewhere) -> dict[tuple[datetime, datetime], NDArray[np.bytes_]]:
    """A committed file's ids, by the hour that they were published for and the one said to hold them. Raises BucketsError."""
    name = f"{bucket.folder}/{file.name}"
    data, stored = buckets.read(name)
    if stored.crc32c != file.crc32c:
        raise BucketsError(f"{name} can't be trusted: its checksum is not the one in the receipt")
    try:
        return elsewhere.by_hours(data)
    except (ValueError, OverflowError):
        raise BucketsError(f"{name} can't be read: it holds no ids with their hours") from None
