"""Missing: which of the archive's messages are neither delivered nor refused. Asks the indexes, as deliver does."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from apache_beam.io.gcp.pubsub import PubsubMessage

from schemas.buckets import DEAD_LETTERS, EVENT_TYPE_NAME, Bucket
from schemas.envelope import REPLAY_OF
from schemas.fingerprints import id_hash
from schemas.marks import DIGEST_BYTES, mark
from schemas.shards import Shard
from transforms.archive import Wanted, key_of
from transforms.buckets import Buckets
from transforms.delivered import delivered_of
from transforms.order import Turn, last_turn
from transforms.versions import newest_receipt

_ALL = Shard(0, 1)


def missing(buckets: Buckets, messages: Iterable[PubsubMessage], wanted: Wanted, horizon: timedelta) -> set[tuple[str, str]]:
    """Event types and ids of those messages, wanted ones, that a repair would deliver, or keep as dead letters.

    Raises BucketsError or ReceiptError where a bucket that has to be asked can't be read.
    """
    by_bucket: dict[Bucket, list[PubsubMessage]] = {}
    for message in messages:
        kind, hour = key_of(message)[0], wanted.hour_of(message)
        if hour:
            stream = kind if EVENT_TYPE_NAME.fullmatch(kind) and kind != DEAD_LETTERS else DEAD_LETTERS
            by_bucket.setdefault(Bucket(stream, hour), []).append(message)
    found: set[tuple[str, str]] = set()
    for bucket, these in by_bucket.items():
        left = these
        if bucket.stream != DEAD_LETTERS:
            left = _without(buckets, bucket, left, [id_hash(key_of(one)[1]) for one in left], horizon)
        own = [id_hash(one.attributes.get(REPLAY_OF) or one.message_id) for one in left]
        found |= {key_of(one) for one in _without(buckets, Bucket(DEAD_LETTERS, bucket.hour), left, own, horizon)}
    return found


def _without(
    buckets: Buckets, bucket: Bucket, messages: list[PubsubMessage], hashed: list[bytes], horizon: timedelta
) -> list[PubsubMessage]:
    """The messages whose hashes are not known to the bucket, or the hours around it."""
    delivered = delivered_of(buckets, bucket.stream, horizon)
    turn = last_turn(buckets, bucket.stream) if delivered.is_ordered else Turn()
    marks = b"".join(mark(one, 0, bytes(DIGEST_BYTES)) for one in hashed)
    known = delivered.find(turn, newest_receipt(buckets, bucket), _ALL, marks).repeated
    return [message for message, is_known in zip(messages, known, strict=True) if not is_known]
