"""Find archived messages that are neither delivered nor dead letters, by the id indexes that deliver uses."""

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


class _Candidate(NamedTuple):
    message: PubsubMessage
    offset: int
    """Microseconds from the beginning of the hour to the time of receipt."""


def missing(
    store: ObjectStore, messages: Iterable[PubsubMessage], wanted: Wanted, delivered: DeliveredIndexes
) -> set[tuple[str, str]]:
    """Return the event types and ids of messages that a repair would deliver or add to the dead letters.

    Raises:
        StoreError, ManifestError: A bucket that has to be looked up can't be read.
    """
    by_bucket: dict[Bucket, list[_Candidate]] = {}
    for message in messages:
        event_type, received_at = key_of(message)[0], wanted.received_at(message)
        if received_at:
            is_stream = EVENT_TYPE_NAME.fullmatch(event_type) and event_type != DEAD_LETTERS
            stream = event_type if is_stream else DEAD_LETTERS
            bucket = Bucket(stream, hour_of(received_at))
            by_bucket.setdefault(bucket, []).append(_Candidate(message, micros(received_at) - micros(bucket.hour)))
    result: set[tuple[str, str]] = set()
    for bucket, candidates in by_bucket.items():
        undelivered = candidates
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
    store: ObjectStore, bucket: Bucket, candidates: list[_Candidate], hashed: list[bytes], delivered: DeliveredIndexes
) -> list[_Candidate]:
    """Return the candidates whose hashes are in no index of the bucket and of the buckets within the dedup horizon."""
    index = delivered.of(bucket.stream)
    turn = last_turn(store, bucket.stream) if index.is_ordered else Turn()
    entries = b"".join(
        index_entry(digest, item.offset, bytes(DIGEST_BYTES)) for item, digest in zip(candidates, hashed, strict=True)
    )
    found = index.find(turn, finished_receipt(store, bucket), _ALL, entries).delivered
    return [item for item, is_found in zip(candidates, found, strict=True) if not is_found]
