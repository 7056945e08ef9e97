"""Missing: which of the archive's messages are neither delivered nor refused. Asks the indexes, as deliver does."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import NamedTuple

from apache_beam.io.gcp.pubsub import PubsubMessage

from schemas.buckets import DEAD_LETTERS, EVENT_TYPE_NAME, Bucket, hour_of
from schemas.envelope import REPLAY_OF, micros
from schemas.fingerprints import id_hash
from schemas.shards import Shard
from storage.buckets.commit_log import Turn, last_turn
from storage.buckets.id_index import DIGEST_BYTES, mark
from storage.buckets.manifest_store import newest_receipt
from storage.objects.base import Buckets
from transforms.dedup.delivered_index import delivered_of
from transforms.recovery.archive import Wanted, key_of

_ALL = Shard(0, 1)


class _Asked(NamedTuple):
    """offset: the microseconds from its hour's beginning to its received_at."""

    message: PubsubMessage
    offset: int


def missing(buckets: Buckets, messages: Iterable[PubsubMessage], wanted: Wanted, horizon: timedelta) -> set[tuple[str, str]]:
    """Event types and ids of those messages, wanted ones, that a repair would deliver, or keep as dead letters.

    Raises BucketsError or ReceiptError where a bucket that has to be asked can't be read.
    """
    by_bucket: dict[Bucket, list[_Asked]] = {}
    for message in messages:
        kind, received_at = key_of(message)[0], wanted.received_at(message)
        if received_at:
            stream = kind if EVENT_TYPE_NAME.fullmatch(kind) and kind != DEAD_LETTERS else DEAD_LETTERS
            bucket = Bucket(stream, hour_of(received_at))
            by_bucket.setdefault(bucket, []).append(_Asked(message, micros(received_at) - micros(bucket.hour)))
    found: set[tuple[str, str]] = set()
    for bucket, these in by_bucket.items():
        left = these
        if bucket.stream != DEAD_LETTERS:
            left = _without(buckets, bucket, left, [id_hash(key_of(one.message)[1]) for one in left], horizon)
        own = [id_hash(one.message.attributes.get(REPLAY_OF) or one.message.message_id) for one in left]
        found |= {key_of(one.message) for one in _without(buckets, Bucket(DEAD_LETTERS, bucket.hour), left, own, horizon)}
    return found


def _without(buckets: Buckets, bucket: Bucket, asked: list[_Asked], hashed: list[bytes], horizon: timedelta) -> list[_Asked]:
    """The messages whose hashes are not known to the bucket, or the hours around it."""
    delivered = delivered_of(buckets, bucket.stream, horizon)
    turn = last_turn(buckets, bucket.stream) if delivered.is_ordered else Turn()
    marks = b"".join(mark(digest, one.offset, bytes(DIGEST_BYTES)) for one, digest in zip(asked, hashed, strict=True))
    known = delivered.find(turn, newest_receipt(buckets, bucket), _ALL, marks).repeated
    return [one for one, is_known in zip(asked, known, strict=True) if not is_known]
