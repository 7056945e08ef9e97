"""From messages to files: thin Beam shells around `receive` and `parts`.

What crosses a shuffle is bytes under a text key. A step's label is part of its contract: a running job is updated by it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Any

import apache_beam as beam

from schemas.buckets import Bucket
from schemas.shards import Shard
from storage.buckets.committable import Contribution
from storage.buckets.manifest_store import DAMAGE
from storage.objects.base import Buckets
from transforms.decode.packs import name_of
from transforms.dedup.delivered_index import delivered_of
from transforms.pubsub.leases import lent
from transforms.windows import Hourly
from transforms.write.stage import contribute


class WriteParts(beam.PTransform):  # type: ignore[misc]
    """Takes packs. Gives, by bucket, what each pane of a shard contributes: a file in staging, and what became of each record.

    row_schemas: stream -> Avro schema of its rows; horizon: how far back and ahead an id is the same event. A bucket whose own
    objects are damaged, or those of the hours around it, stops no other: in a run that ends its packs contribute what is wrong,
    and their messages are not acknowledged; where this process has leased the messages of a stream (`leased`: from which
    subscription), they are put off; another engine tries its packs again.
    """

    def __init__(
        self,
        buckets: Buckets,
        row_schemas: Mapping[str, dict[str, Any]],
        hourly: Hourly,
        horizon: timedelta,
        ends: bool,
        leased: str | None = None,
    ) -> None:
        super().__init__()
        self._hourly = hourly
        self._fn = _WriteParts(buckets, row_schemas, horizon, ends, leased)

    def expand(self, packs: beam.PCollection) -> beam.PCollection:
        return (
            packs
            | "Packs by hour" >> self._hourly
            | "Group by shard" >> beam.GroupByKey()
            | "Write" >> beam.ParDo(self._fn).with_output_types(tuple[str, bytes])
        )


class _WriteParts(beam.DoFn):  # type: ignore[misc]
    def __init__(
        self,
        buckets: Buckets,
        row_schemas: Mapping[str, dict[str, Any]],
        horizon: timedelta,
        ends: bool,
        leased: str | None,
    ) -> None:
        self._buckets = buckets
        self._row_schemas = row_schemas
        self._horizon = horizon
        self._ends = ends
        self._leased = leased

    def process(self, element: tuple[str, Iterable[bytes]]) -> Iterator[tuple[str, bytes]]:
        key, _, shard_text = element[0].rpartition("#")
        bucket, shard = Bucket.from_key(key), Shard.parse(shard_text)
        delivered = delivered_of(self._buckets, bucket.stream, self._horizon)
        try:
            contribution = contribute(self._buckets, bucket, shard, element[1], self._row_schemas[bucket.stream], delivered)
        except DAMAGE as error:
            if not self._ends:
                if not (leases := lent(self._leased)):
                    raise
                leases.troubles.met(bucket.folder, f"{bucket.folder}: {error}", keeps_back=True)
                leases.put_off(map(name_of, element[1]))
                return
            contribution = Contribution("", trouble=str(error))
        yield key, contribution.to_json()
