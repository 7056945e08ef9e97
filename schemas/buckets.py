"""Names: where the data of one stream and hour lie, in the same form on disk, in Cloud Storage and in a shuffle's keys."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

DEAD_LETTERS = "dead_letters"
"""The stream of refused messages. It has buckets, manifests and a table like an event type, so none can have its name."""

STAGING = "staging"
"""Where files of all buckets lie until a manifest lists them, under names of their own. What stays is of a lost attempt."""

EVENT_TYPE_NAME = re.compile(r"[a-z][a-z0-9_]{0,99}")
"""What an event type can be called, and so what a stream is called."""

HOUR = timedelta(hours=1)

FIRST_HOUR = datetime(1970, 1, 1, tzinfo=UTC)
LAST_HOUR = datetime(2159, 12, 31, 23, tzinfo=UTC)
"""What can be audited: every hour that a table can have a partition of, in BigQuery too."""


def hour_of(moment: datetime) -> datetime:
    """The start of the UTC hour that holds `moment`, which must carry a time zone (ValueError otherwise)."""
    if moment.tzinfo is None:
        raise ValueError(f"{moment} has no time zone")
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


@dataclass(frozen=True, order=True)
class Bucket:
    """One stream (an event type, or DEAD_LETTERS) in one UTC hour, named by the hour's start."""

    stream: str
    hour: datetime

    def __post_init__(self) -> None:
        if hour_of(self.hour) != self.hour:
            raise ValueError(f"{self.hour} is not the start of an hour")

    @property
    def end(self) -> datetime:
        """The first moment that no longer belongs to the hour."""
        return self.hour + HOUR

    @property
    def key(self) -> str:
        """`<stream>/<YYYYMMDDHH>`: the bucket as a shuffle's key. `from_key` reads it back."""
        return f"{self.stream}/{self.hour:%Y%m%d%H}"

    @classmethod
    def from_key(cls, key: str) -> Bucket:
        """The bucket that `key` names; ValueError when it names none."""
        stream, _, hour = key.rpartition("/")
        if not stream:
            raise ValueError(f"{key!r} is not the key of a bucket")
        return cls(stream, datetime.strptime(hour, "%Y%m%d%H").replace(tzinfo=UTC))

    @property
    def folder(self) -> str:
        """Where its committed files lie, relative to the root of the store, without a slash at the end."""
        return f"{stream_folder(self.stream)}/dt={self.hour:%Y-%m-%d}/hour={self.hour:%H}"

    @property
    def manifest_name(self) -> str:
        """The newest manifest whose files are all in place: what a reader of the bucket opens."""
        return f"{self.folder}/_RECEIPT.json"

    @property
    def success_name(self) -> str:
        """The empty object that is there once the bucket is closed."""
        return f"{self.folder}/_SUCCESS"

    def version_name(self, version: int) -> str:
        """The manifest's version `version` (1 or more). Created once, never written again."""
        return f"{self.folder}/_receipts/{version:06d}.json"

    def loaded_name(self, version: int) -> str:
        """The empty object that is there once the table's partition has held what that version lists."""
        return f"{self.folder}/_receipts/{version:06d}.loaded"


def stream_folder(stream: str) -> str:
    """The folder of all hours of a stream."""
    return DEAD_LETTERS if stream == DEAD_LETTERS else f"events/{stream}"


def bucket_of(name: str) -> Bucket | None:
    """The bucket whose folder holds the object `name`, or None where it is in no bucket's."""
    words = name.removeprefix("events/").split("/")
    if len(words) < 4:
        return None
    try:
        bucket = Bucket(words[0], datetime.strptime("/".join(words[1:3]), "dt=%Y-%m-%d/hour=%H").replace(tzinfo=UTC))
    except ValueError:
        return None
    return bucket if name.startswith(f"{bucket.folder}/") else None
