"""Archive files as a Cloud Storage subscription writes them, with metadata.

Schema, names and the place of ordering keys follow docs.cloud.google.com/pubsub/docs/create-cloudstorage-subscription. That
page leaves codec and block size open, so any that Avro has may be used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import fastavro

from tests.support.clock import CLOCK

SCHEMA: dict[str, Any] = {
    "type": "record",
    "namespace": "com.google.pubsub",
    "name": "PubsubMessageWithMetadata",
    "fields": [
        {"name": "subscription_name", "type": "string"},
        {"name": "message_id", "type": "string"},
        {"name": "publish_time", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "attributes", "type": {"type": "map", "values": "string"}},
        {"name": "data", "type": "bytes"},
    ],
}


class Archived(NamedTuple):
    """A message with the fields that Pub/Sub adds."""

    data: bytes
    attributes: Mapping[str, str]
    message_id: str
    publish_time: datetime
    ordering_key: str = ""


def write_archive(folder: Path, messages: Iterable[Archived], at: datetime | None = None, block_bytes: int = 16_000) -> Path:
    """Write one archive file and return its path.

    Args:
        at: time in the file's name, now by default
        block_bytes: size that a block slightly exceeds before compression
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"events-{(at or CLOCK.now()).isoformat(timespec='seconds')}_{uuid4()}.avro"
    file.write_bytes(archive_bytes(messages, block_bytes))
    return file


def archive_bytes(messages: Iterable[Archived], block_bytes: int = 16_000, codec: str = "deflate") -> bytes:
    """Return the bytes of one archive file."""
    records = [
        {
            "subscription_name": "projects/test-project/subscriptions/archive",
            "message_id": message.message_id,
            "publish_time": message.publish_time,
            "attributes": {**message.attributes, **({"ordering_key": message.ordering_key} if message.ordering_key else {})},
            "data": message.data,
        }
        for message in messages
    ]
    target = BytesIO()
    fastavro.writer(target, SCHEMA, records, codec=codec, sync_interval=block_bytes)
    return target.getvalue()
