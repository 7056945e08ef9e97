"""From messages to files: thin Beam shells around `receive` and `parts`.

What crosses a shuffle is bytes under a text key. A step's label is part of its contract: a running job is updated by it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

import apache_beam as beam
from apache_beam.io.gcp.pubsub import PubsubMessage

from schemas.buckets import Bucket
from schemas.contracts import Contracts
from schemas.contributions import Contribution
from schemas.envelope import format_time
from schemas.shards import Shard
from transforms.buckets import Buckets
from transforms.clocks import new_id
from transforms.contributing import contribute
from transforms.delivered import delivered_of
from transforms.leases import lent
from transforms.packs import name_of
from transforms.receive import Packed, Receiver
from transforms.versions import DAMAGE
from transforms.windows import Hourly, at

PACKS, HOURS = "packs", "hours"


class Receive(beam.PTransform):  # type: ignore[misc]
    """Takes PubsubMessages. Gives packs by bucket and shard, and the hours met: each once by a worker, or a few times.

    subscription: the one whose messages this process has leased (`transforms.leases`); None where the engine acknowledges.
    """

    def __init__(self, contracts: Contracts, allowed_lateness: timedelta, shards: int, subscription: str | None) -> None:
        super().__init__()
        self._fn = _Receive(contracts, allowed_lateness, shards, subscription)

    def expand(self, messages: beam.PCollection) -> Any:
        received = messages | beam.ParDo(self._fn).with_outputs(HOURS, main=PACKS)
        received[PACKS].element_type = tuple[str, bytes]
        received[HOURS].element_type = str
        return received


class _Receive(beam.DoFn):  # type: ignore[misc]
    def __init__(self, contracts: Contracts, allowed_lateness: timedelta, shards: int, subscription: str | None) -> None:
        self._parameters = (contracts, allowed_lateness, shards)
        self._subscription = subscription

    def setup(self) -> None:
        self._leases = lent(self._subscription)
        self._met: set[datetime] = set()

    def start_bundle(self) -> None:
        self._receiver = Receiver(*self._parameters, new_id)
        self._hours: set[datetime] = set()

    def process(self, element: PubsubMessage) -> list[Any] | None:
        # A list or nothing, not a generator: that is a fifth of what Beam costs here.
        packed = self._receiver.add(element)
        return [self._pack(packed)] if packed else None

    def finish_bundle(self) -> list[Any]:
        packs = [self._pack(packed) for packed in self._receiver.finish()]
        new, self._met = self._hours - self._met, self._met | self._hours
        return packs + [beam.pvalue.TaggedOutput(HOURS, at(hour, format_time(hour))) for hour in new]

    def _pack(self, packed: Packed) -> Any:
        self._hours.add(packed.bucket.hour)
        if self._leases:
            self._leases.pack(packed.name, packed.message_ids)
        return at(packed.bucket.hour, (f"{packed.bucket.key}#{packed.shard}", packed.data))


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
