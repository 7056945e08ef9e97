"""Read the archive: the Avro files that a Cloud Storage subscription on the events' topic has written, with metadata.

The format is specified at docs.cloud.google.com/pubsub/docs/create-cloudstorage-subscription. An object is named <prefix><UTC
time of its creation>_<UUID><suffix>, and the format of the time is a setting of the subscription. Each is open for ten minutes
at most, several at the same time, and messages are in no order.

A record is a message: subscription_name, message_id, publish_time, attributes (with the ordering key, if there is one) and
data. A subscription without metadata writes data alone, and one that uses the topic's schema writes the fields of the payload
in place of data. Neither can be restored to messages.
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
"""Bytes. Longer data without a sync marker is not a block, since a message has 10 MB at most, and is not kept in memory."""

_FIELDS = {"message_id", "publish_time", "attributes", "data"}
_TIME_IN_NAME = re.compile(r"(?<!\d)(\d{4})[-_:/](\d\d)[-_:/](\d\d)[-_:/T](\d\d)[-_:/](\d\d)[-_:/](\d\d)(?!\d)([+-]\d\d:\d\d)?")
"""Times in names, in UTC: the subscription's default format, and formats that differ only in the separators between year,
month, day, hour, minute and second, such as YYYY-MM-DD/hh_mm_ssZ."""
_SYNC_BYTES = 16
_CODECS = {"null", "deflate", "bzip2", "xz"}
"""Codecs that can be read. Pub/Sub's documentation does not name the one that it uses. For others fastavro needs more
packages."""


@dataclass(frozen=True)
class Wanted:
    """Selects messages by the hour of their event, as deliver determines it, and optionally by event id."""

    first: datetime
    """First hour."""
    last: datetime
    """Last hour, included."""
    allowed_lateness: timedelta
    """The allowed lateness of deliver."""
    ids: Collection[tuple[str, str]] | None = None
    """Event types and ids. None: all."""

    def received_at(self, message: PubsubMessage) -> datetime | None:
        """Return the time of receipt of the message's event, which decides its hour, or None if it is not wanted."""
        if self.ids is not None and key_of(message) not in self.ids:
            return None
        try:
            received_at = stamp(message.attributes, message.publish_time, self.allowed_lateness).received_at
        except Rejected:
            received_at = message.publish_time
        return received_at if self.first <= hour_of(received_at) <= self.last else None

    def may_be_in(self, name: str) -> bool:
        """Whether a file of this name may contain wanted messages. A name without a time may.

        An event of an hour is published from shortly before the hour until the allowed lateness after it, and is archived
        within the longest life of a message after that.
        """
        try:
            moments = [_moment(*parts) for parts in _TIME_IN_NAME.findall(name)]
        except ValueError:
            return True
        if not moments:
            return True
        # An hour earlier, because the name has the time at which the file was created, and it is written for ten minutes.
        begin, end = self.first - MAX_CLOCK_SKEW - HOUR, self.last + HOUR
        return any(begin <= moment and moment - end <= self.allowed_lateness + LONGEST_LIFE for moment in moments)


def _moment(*parts: str) -> datetime:
    year, month, day, hour, minute, second, offset = parts
    return parse_time(f"{year}-{month}-{day}T{hour}:{minute}:{second}{offset or 'Z'}")


def key_of(message: PubsubMessage) -> tuple[str, str]:
    """Return event type and id, as deliver determines them."""
    return message.attributes.get(EVENT_TYPE, ""), message.attributes.get(EVENT_ID) or message.message_id


def archive_files(archive: ObjectStore, wanted: Wanted) -> list[str]:
    """Return the names of the files that may contain wanted messages, in order."""
    return [name for name in archive.list("") if wanted.may_be_in(name)]


def read_messages(
    archive: ObjectStore, name: str, wanted: Wanted, problems: list[str]
) -> Iterator[tuple[datetime, PubsubMessage]]:
    """Yield the wanted messages of a file, with the hours of their events. Keeps one block in memory.

    Unreadable parts are skipped, with a message in `problems`.
    """
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
        except Exception as error:  # noqa: BLE001 - a damaged file makes fastavro raise almost anything
            problems.append(f"{archive.uri}/{name} is not a readable Avro file ({type(error).__name__})")
            return
        if missing := ", ".join(sorted(_FIELDS - fields.keys())):
            problems.append(
                f"{archive.uri}/{name} has no {missing}. "
                "What to do: have the subscription write metadata, and without the topic's schema"
            )
            return
        if fields["data"] != "bytes":
            problems.append(
                f"{archive.uri}/{name}: data is not bytes. What to do: have the subscription write without the topic's schema"
            )
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
    """Yield the offset and the bytes of each block, with the sync marker that ends it.

    Blocks are separated by their markers alone, so that a broken block hides no other. Bytes without a marker at the end of the
    file are yielded too, and empty bytes for a stretch longer than LARGEST_BLOCK: neither can be decoded as a block.
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
            # Keep only the bytes that may begin a marker. The bytes up to the next marker are reported as broken too.
            yield offset, b""
            offset, buffer = offset + len(buffer) - len(sync), buffer[-len(sync) :]
        chunk = file.read(CHUNK)
        if not chunk:
            break
        buffer += chunk
    if buffer:
        yield offset, buffer


def _records(header: bytes, block: bytes) -> list[Mapping[str, Any]]:
    """Return the records of one block. Raises an exception of any type if the block is broken."""
    blocks: Any = fastavro.block_reader(BytesIO(header + block))
    [read] = blocks
    records = list(read)
    if read.bytes_.read(1):
        raise ValueError("the block is longer than its records")
    return records


def _message(record: Mapping[str, Any]) -> PubsubMessage:
    if not isinstance(record["publish_time"], datetime):
        raise TypeError("publish_time is not a timestamp")
    return PubsubMessage(record["data"], dict(record["attributes"]), record["message_id"], record["publish_time"])
