"""Contributing: what the packs of one bucket and shard add to it, written to staging."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from io import BytesIO
from typing import Any

from fastavro import schemaless_reader

from schemas.buckets import Bucket
from schemas.contributions import Contribution
from schemas.shards import Shard
from transforms.buckets import Buckets
from transforms.clocks import new_id
from transforms.conflicts import letter_of, letters_part
from transforms.delivered import Delivered
from transforms.order import Turn, last_turn
from transforms.parts import write_part
from transforms.versions import finished_receipt


def contribute(
    buckets: Buckets, bucket: Bucket, shard: Shard, packs: Iterable[bytes], schema: dict[str, Any], delivered: Delivered
) -> Contribution:
    """Writes what is new in the packs, by what is known to be delivered now; what conflicts goes to the hour's dead letters.

    The commit will ask again: this keeps most files from having to be written twice.
    """
    turn = last_turn(buckets, bucket.stream) if delivered.is_ordered else Turn()
    find = partial(delivered.find, turn, finished_receipt(buckets, bucket), shard)
    contribution, conflicting = write_part(buckets, bucket, shard, packs, schema, find, new_id)
    rows: list[Any] = [schemaless_reader(BytesIO(record), schema, None) for record in conflicting]
    letters = letters_part(buckets, bucket.hour, contribution.id, list(map(letter_of, rows)), new_id)
    return replace(contribution, conflicts=letters)
