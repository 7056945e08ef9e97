"""Missing: which of the archive's messages are neither delivered nor refused. Asks the indexes, as deliver does."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from apache_beam.io.gcp.pubsub import PubsubMessage

from schemas.buckets import DEAD_LETTERS, EVENT_TYPE_NAME, Bucket, hour_of
from schemas.envelope import REPLAY_OF, micros
from schemas.fingerprints import id_hash
from schemas.shards import Shard
from storage.buckets.commit_log import Turn, last_turn
from storage.buckets.id_index import DIGEST_BYTES, index_entry
from storage.buckets.manifest_store import finished_receipt
from storage.objects.base import ObjectStore
from transforms.dedup.delivered_index import DeliveredIndexes
from transforms.recovery.archive import Wanted, key_of

_ALL = Shard(0, 1)


class _Asked(NamedTuple):
    """offset: the microseconds from its hour's beginning to its received_at."""

    message: PubsubMessage
    offset: int


def missing(
    store: ObjectStore, messages: Iterable[PubsubMessage], wanted: Wanted, delivered: DeliveredIndexes
) -> set[tuple[str, str]]:
    """Event types and ids of those messages, wanted ones, that a repair would deliver, or keep as dead letters.

    Raises StoreError or ManifestError where a bucket that has to be asked can't be read.
    """
    by_bucket: dict[Bucket, list[_Asked]] = {}
    for message in messages:
        kind, received_at = key_of(message)[0], wanted.received_at(message)
        if received_at:
            stream = kind if EVENT_TYPE_NAME.fullmatch(kind) and kind != DEAD_LETTERS else DEAD_LETTERS
            bucket = Bucket(stream, hour_of(received_at))
            by_bucket.setdefault(bucket, []).append(_Asked(message, micros(received_at) - micros(bucket.hour)))
    result: set[tuple[str, str]] = set()
    for bucket, asked in by_bucket.items():
        undelivered = asked
        if bucket.stream != DEAD_LETTERS:
            event_hashes = [id_hash(key_of(item.message)[1]) for item in undelivered]
            undelivered = _without(store, bucket, undelivered, event_hashes, delivered)
        message_hashes = [id_hash(item.message.attributes.get(REPLAY_OF) or item.message.message_id) for item in undelivered]
        result |= {
            key_of(item.message)
            for item in _without(store, Bucket(DEAD_LETTERS, bucket.hour), undelivered, message_hashes, delivered)
        }
    return result


def _without(
    store: ObjectStore, bucket: Bucket, asked: list[_Asked], hashed: list[bytes], delivered: DeliveredIndexes
) -> list[_Asked]:
    """The messages whose hashes are not known to the bucket, or the hours around it."""
    index = delivered.of(bucket.stream)
    turn = last_turn(store, bucket.stream) if index.is_ordered else Turn()
    entries = b"".join(
        index_entry(digest, item.offset, bytes(DIGEST_BYTES)) for item, digest in zip(asked, hashed, strict=True)
    )
    known = index.find(turn, finished_receipt(store, bucket), _ALL, entries).delivered
    return [item for item, is_known in zip(asked, known, strict=True) if not is_known]
