"""The archive: what a Cloud Storage subscription on the events' topic has written, in Avro with metadata.

As docs.cloud.google.com/pubsub/docs/create-cloudstorage-subscription says, an object is named <prefix><UTC time when it was
created>_<UUID><suffix>, where the form of the time is a setting of the subscription. It is written for ten minutes at most, in
no order, and beside others. A record is a message: subscription_name, message_id, publish_time, attributes (with an entry for
the ordering key, where there is one) and data. Where the subscription does not write metadata there is data alone, and where it
uses the topic's schema the payload's own fields stand in its place: from neither can messages be taken.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from io import BytesIO
from typing import Any

import fastavro
from apache_beam.io.gcp.pubsub import PubsubMessage

from schemas.buckets import HOUR, hour_of
from schemas.envelope import EVENT_ID, EVENT_TYPE, MAX_CLOCK_SKEW, parse_time, stamp
from schemas.outcomes import Rejected
from storage.objects.base import ObjectStore, StoreError
from storage.objects.streams import CHUNK
from transforms.windows import LONGEST_LIFE

LARGEST_BLOCK = 64 * 1024 * 1024
"""Bytes. A message has 10 MB at most; what is longer without an end is not a block, and is not held in memory."""

_FIELDS = {"message_id", "publish_time", "attributes", "data"}
_TIME_IN_NAME = re.compile(r"(?<!\d)(\d{4})[-_:/](\d\d)[-_:/](\d\d)[-_:/T](\d\d)[-_:/](\d\d)[-_:/](\d\d)(?!\d)([+-]\d\d:\d\d)?")
"""The form that times have in names if the subscription sets no other, and those that only part year, month, day, hour, minute
and second by other signs, as YYYY-MM-DD/hh_mm_ssZ. They are in UTC."""
_SYNC_BYTES = 16
_CODECS = {"null", "deflate", "bzip2", "xz"}
"""Which one is used is not documented. Avro knows others, for which fastavro asks for more libraries."""


@dataclass(frozen=True)
class Wanted:
    """Which messages: those whose event belongs to one of the hours from `first` to `last`, both included, by the stamp's rule
    and the allowed lateness that deliver has; and where `ids` are given, only those of these event types and ids."""

    first: datetime
    last: datetime
    allowed_lateness: timedelta
    ids: Collection[tuple[str, str]] | None = None

    def received_at(self, message: PubsubMessage) -> datetime | None:
        """When its event was received, which decides its hour; None where it is not wanted."""
        if self.ids is not None and key_of(message) not in self.ids:
            return None
        try:
            received_at = stamp(message.attributes, message.publish_time, self.allowed_lateness).received_at
        except Rejected:
            received_at = message.publish_time
        return received_at if self.first <= hour_of(received_at) <= self.last else None

    def may_be_in(self, name: str) -> bool:
        """Whether a file of this name can hold such a message. A name that shows no time can.

        An event of an hour is published from a little before it until the allowed lateness after it, and written within
        Pub/Sub's longest life of a message: so files are read that are as much younger as the two together.
        """
        try:
            moments = [_moment(*parts) for parts in _TIME_IN_NAME.findall(name)]
        except ValueError:
            return True
        if not moments:
            return True
        # An hour more at the beginning: a file is named when it is begun, and goes on for ten minutes.
        begin, end = self.first - MAX_CLOCK_SKEW - HOUR, self.last + HOUR
        return any(begin <= moment and moment - end <= self.allowed_lateness + LONGEST_LIFE for moment in moments)


def _moment(*parts: str) -> datetime:
    year, month, day, hour, minute, second, offset = parts
    return parse_time(f"{year}-{month}-{day}T{hour}:{minute}:{second}{offset or 'Z'}")


def key_of(message: PubsubMessage) -> tuple[str, str]:
    """Event type and id, as deliver takes them."""
    return message.attributes.get(EVENT_TYPE, ""), message.attributes.get(EVENT_ID) or message.message_id


def archive_files(archive: ObjectStore, wanted: Wanted) -> list[str]:
    """The names of the files that have to be read, in order."""
    return [name for name in archive.list("") if wanted.may_be_in(name)]


def read_messages(
    archive: ObjectStore, name: str, wanted: Wanted, problems: list[str]
) -> Iterator[tuple[datetime, PubsubMessage]]:
    """The wanted messages of a file, with their events' hours. Holds a block at a time. What can't be read is added to
    `problems`, and does not keep the rest from being read."""
    try:
        yield from _messages(archive, name, wanted, problems)
    except (StoreError, OSError) as error:
        problems.append(f"{archive.uri}/{name} can't be read: {error}")


def _messages(archive: ObjectStore, name: str, wanted: Wanted, problems: list[str]) -> Iterator[tuple[datetime, PubsubMessage]]:
    with archive.open(name) as file:
        try:
            reader: Any = fastavro.block_reader(file)
            fields = {field["name"]: field["type"] for field in reader.writer_schema["fields"]}
        except (StoreError, OSError):
            raise
        except Exception as error:  # noqa: BLE001 - what a damaged file makes the reader raise has no end
            problems.append(f"{archive.uri}/{name} is no Avro file that can be read ({type(error).__name__})")
            return
        if missing := ", ".join(sorted(_FIELDS - fields.keys())):
            problems.append(
                f"{archive.uri}/{name} has no {missing}: the subscription has to write metadata, and no topic schema"
            )
            return
        if fields["data"] != "bytes":
            problems.append(f"{archive.uri}/{name}: data is no bytes: the subscription must not use the topic's schema")
            return
        if reader.codec not in _CODECS:
            problems.append(f"{archive.uri}/{name} is compressed with {reader.codec}, which can't be read")
            return
        begin = file.tell()
        file.seek(0)
        header = file.read(begin)
        for offset, block in _blocks(file, begin, header[-_SYNC_BYTES:]):
            try:
                messages = [_message(record) for record in _records(header, block)]
            except Exception as error:  # noqa: BLE001 - as above
                problems.append(f"{archive.uri}/{name}: the block at byte {offset} is broken ({type(error).__name__})")
                continue
            yield from ((hour_of(moment), message) for message in messages if (moment := wanted.received_at(message)))


def _blocks(file: Any, offset: int, sync: bytes) -> Iterator[tuple[int, bytes]]:
    """Each block with the place where it begins, and with the marker that ends it; of what is no block, what there is.

    Blocks are told apart by their markers alone, so that one that is broken hides no other.
    """
    buffer, start = b"", 0
    while True:
        end = buffer.find(sync, start)
        if end >= 0:
            end += len(sync)
            yield offset + start, buffer[start:end]
            start = end
            continue
        offset, buffer, start = offset + start, buffer[start:], 0
        if len(buffer) > LARGEST_BLOCK:
            # Nothing of it is kept but what may be the beginning of a marker; what comes before the next one is broken too.
            yield offset, b""
            offset, buffer = offset + len(buffer) - len(sync), buffer[-len(sync) :]
        chunk = file.read(CHUNK)
        if not chunk:
            break
        buffer += chunk
    if buffer:
        yield offset, buffer


def _records(header: bytes, block: bytes) -> list[Mapping[str, Any]]:
    """The records of one block. Raises anything where it is not whole."""
    blocks: Any = fastavro.block_reader(BytesIO(header + block))
    [read] = blocks
    records = list(read)
    if read.bytes_.read(1):
        raise ValueError("there is more in the block than its records")
    return records


def _message(record: Mapping[str, Any]) -> PubsubMessage:
    if not isinstance(record["publish_time"], datetime):
        raise TypeError("publish_time is no time")
    return PubsubMessage(record["data"], dict(record["attributes"]), record["message_id"], record["publish_time"])
