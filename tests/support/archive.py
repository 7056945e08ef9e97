"""Archive files as a Cloud Storage subscription writes them, with metadata.

Schema, names and the place of ordering keys are those of docs.cloud.google.com/pubsub/docs/create-cloudstorage-subscription;
what it does not tell (the codec, the size of blocks) is any that Avro has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import fastavro

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
    """A message with what Pub/Sub gave it."""

    data: bytes
    attributes: Mapping[str, str]
    message_id: str
    publish_time: datetime
    ordering_key: str = ""


def write_archive(folder: Path, messages: Iterable[Archived], at: datetime | None = None, block_bytes: int = 16_000) -> Path:
    """Writes one file, named for `at` (now). block_bytes: each block has a little more than this before it is compressed."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"events-{(at or datetime.now(UTC)).isoformat(timespec='seconds')}_{uuid4()}.avro"
    file.write_bytes(archive_bytes(messages, block_bytes))
    return file


def archive_bytes(messages: Iterable[Archived], block_bytes: int = 16_000, codec: str = "deflate") -> bytes:
    """What one file holds."""
    records = [
        {
            "subscription_name": "projects/test-project/subscriptions/archive",
            "message_id": one.message_id,
            "publish_time": one.publish_time,
            "attributes": {**one.attributes, **({"ordering_key": one.ordering_key} if one.ordering_key else {})},
            "data": one.data,
        }
        for one in messages
    ]
    target = BytesIO()
    fastavro.writer(target, SCHEMA, records, codec=codec, sync_interval=block_bytes)
    return target.getvalue()
