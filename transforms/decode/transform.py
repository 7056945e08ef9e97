"""PTransform Decode"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import apache_beam as beam
from apache_beam.io.gcp.pubsub import PubsubMessage

from schemas.envelope import format_time
from schemas.registry.contracts import Contracts
from transforms.clocks import new_id
from transforms.decode.decoder import Packed, Receiver
from transforms.pubsub.leases import lent
from transforms.windows import at

PACKS, HOURS = "packs", "hours"


class Receive(beam.PTransform):  # type: ignore[misc]
    """Takes PubsubMessages. Gives packs by bucket and shard, and the hours met: each once by a worker, or a few times.

    subscription: the one whose messages this process has leased (`transforms.pubsub.leases`); None where the engine
    acknowledges.
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
