"""Buckets and their names: the same in every object store and as keys of a shuffle."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

DEAD_LETTERS = "dead_letters"
"""The stream of dead letters. It has buckets, manifests and a table like an event type, so no event type may have its name."""

STAGING = "staging"
"""The folder in which files of all buckets lie, with unique names, until a manifest lists them.

Files that are never listed are left over from failed attempts.
"""

EVENT_TYPE_NAME = re.compile(r"[a-z][a-z0-9_]{0,99}")
"""The form of event types, and so of streams."""

HOUR = timedelta(hours=1)

FIRST_HOUR = datetime(1970, 1, 1, tzinfo=UTC)
LAST_HOUR = datetime(2159, 12, 31, 23, tzinfo=UTC)
"""Only hours from FIRST_HOUR to LAST_HOUR can be audited: those for which BigQuery can have a partition."""


def hour_of(moment: datetime) -> datetime:
    """Return the start of the UTC hour that contains `moment`.

    Raises:
        ValueError: `moment` has no time zone.
    """
    if moment.tzinfo is None:
        raise ValueError(f"{moment} has no time zone")
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


@dataclass(frozen=True, order=True)
class Bucket:
    """One stream in one UTC hour."""

    stream: str
    """An event type, or DEAD_LETTERS."""

    hour: datetime
    """The start of the hour."""

    def __post_init__(self) -> None:
        if hour_of(self.hour) != self.hour:
            raise ValueError(f"{self.hour} is not the start of an hour")

    @property
    def end(self) -> datetime:
        """The end of the hour, exclusive."""
        return self.hour + HOUR

    @property
    def key(self) -> str:
        """The bucket as the key of a shuffle: `<stream>/<YYYYMMDDHH>`."""
        return f"{self.stream}/{self.hour:%Y%m%d%H}"

    @classmethod
    def from_key(cls, key: str) -> Bucket:
        """Parse the key of a bucket.

        Raises:
            ValueError: `key` has another form.
        """
        stream, _, hour = key.rpartition("/")
        if not stream:
            raise ValueError(f"{key!r} is not a bucket key")
        return cls(stream, datetime.strptime(hour, "%Y%m%d%H").replace(tzinfo=UTC))

    @property
    def folder(self) -> str:
        """The folder of the committed files, relative to the root of the store, without a slash at the end."""
        return f"{stream_folder(self.stream)}/dt={self.hour:%Y-%m-%d}/hour={self.hour:%H}"

    @property
    def manifest_name(self) -> str:
        """The name of the published manifest: the newest one whose files are all in place. Readers of the bucket open it."""
        return f"{self.folder}/_RECEIPT.json"

    @property
    def success_name(self) -> str:
        """The name of the empty object that exists once the bucket is closed."""
        return f"{self.folder}/_SUCCESS"

    def version_name(self, version: int) -> str:
        """Return the name of one version of the manifest, 1 or more. The object is created once and never overwritten."""
        return f"{self.folder}/_receipts/{version:06d}.json"

    def loaded_name(self, version: int) -> str:
        """Return the name of the empty object that exists once that version was loaded into the table's partition."""
        return f"{self.folder}/_receipts/{version:06d}.loaded"


def stream_folder(stream: str) -> str:
    """Return the folder of all hours of a stream, relative to the root of the store, without a slash at the end."""
    return DEAD_LETTERS if stream == DEAD_LETTERS else f"events/{stream}"


def bucket_of(name: str) -> Bucket | None:
    """Return the bucket whose folder contains the object `name`, or None."""
    levels = name.removeprefix("events/").split("/")
    if len(levels) < 4:
        return None
    try:
        bucket = Bucket(levels[0], datetime.strptime("/".join(levels[1:3]), "dt=%Y-%m-%d/hour=%H").replace(tzinfo=UTC))
    except ValueError:
        return None
    return bucket if name.startswith(f"{bucket.folder}/") else None
