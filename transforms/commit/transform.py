"""From files to receipts: thin Beam shells around `commit`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Any

import apache_beam as beam
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import TimerSpec, on_timer
from apache_beam.transforms.util import ReshufflePerKey
from apache_beam.transforms.window import GlobalWindows, IntervalWindow
from apache_beam.utils.windowed_value import PaneInfo, PaneInfoTiming

from schemas.buckets import Bucket
from storage.buckets.committable import LOOK, Contribution, combine
from storage.buckets.manifest import Receipt
from storage.buckets.manifest_store import DAMAGE
from storage.objects.base import Buckets
from transforms.clocks import Clock, new_id, utc_now
from transforms.commit.commit import commit
from transforms.dedup.delivered_index import delivered_of
from transforms.parallel import SideBySide
from transforms.pubsub.leases import lent
from transforms.windows import Hourly, at


class CommitBuckets(beam.PTransform):  # type: ignore[misc]
    """Takes contributions by bucket, from several sources by name. Gives each bucket's newest receipt once they are in it.

    closable: a bucket closes when its hour's last pane has come and this clock has passed its end. A drain moves the watermark,
    not the clock; a run that takes what was there when it began must not close what came after.
    subscription: the one whose messages this process has leased (`transforms.pubsub.leases`): they are acknowledged here.
    A bucket whose own objects are damaged stops no other. In a run that ends, a text that says so comes in its receipt's place;
    in a stream whose messages this process has leased they are put off. Another engine tries it again.
    """

    def __init__(
        self, buckets: Buckets, closable: Clock, hourly: Hourly, horizon: timedelta, subscription: str | None, ends: bool
    ) -> None:
        super().__init__()
        self._hourly = hourly
        self._fn = _Commit(buckets, closable, horizon, subscription, ends)

    def expand(self, contributions: Mapping[str, beam.PCollection]) -> beam.PCollection:
        return (
            [source | f"{name} by hour" >> self._hourly for name, source in contributions.items()]
            | "Join" >> beam.Flatten()
            | "Group by bucket" >> beam.GroupByKey()
            | "Combine" >> beam.ParDo(_Combine()).with_output_types(tuple[str, tuple[bytes, bool]])
            # Prism can't read what a reshuffle of windows of an hour writes; from here on the key alone says the hour.
            | "Out of hours" >> beam.WindowInto(GlobalWindows())
            # What one commit adds has to be the same at every try of it: a grouping alone does not promise that.
            | "Fix" >> ReshufflePerKey()
            | "Commit" >> beam.ParDo(self._fn).with_output_types(Receipt | str)
        )


class _Combine(beam.DoFn):  # type: ignore[misc]
    """Makes one contribution of a pane. An hour whose early panes took all there was need not get a pane when it is over (Prism
    gives none that is empty), so after an early pane a timer asks for the last look."""

    END = TimerSpec("end", TimeDomain.WATERMARK)

    def process(
        self,
        element: tuple[str, Iterable[bytes]],
        pane: PaneInfo = beam.DoFn.PaneInfoParam,
        window: IntervalWindow = beam.DoFn.WindowParam,
        end: Any = beam.DoFn.TimerParam(END),  # noqa: B008 - how Beam declares a timer
    ) -> Iterator[tuple[str, tuple[bytes, bool]]]:
        key, contributions = element
        is_last = pane.timing != PaneInfoTiming.EARLY
        if is_last:
            end.clear()
        else:
            end.set(window.end)
        yield key, (combine(map(Contribution.from_json, contributions)).to_json(), is_last)

    @on_timer(END)  # type: ignore[untyped-decorator]
    def look(self, key: str = beam.DoFn.KeyParam) -> Iterator[tuple[str, tuple[bytes, bool]]]:
        yield key, (LOOK.to_json(), True)


class _Commit(SideBySide):
    def __init__(self, buckets: Buckets, closable: Clock, horizon: timedelta, subscription: str | None, ends: bool) -> None:
        self._buckets = buckets
        self._closable = closable
        self._horizon = horizon
        self._subscription = subscription
        self._ends = ends

    def start_bundle(self) -> None:
        super().start_bundle()
        self._committed: list[str] = []

    def bucket_of(self, element: tuple[str, tuple[bytes, bool]]) -> Bucket:
        return Bucket.from_key(element[0])

    def act(self, element: tuple[str, tuple[bytes, bool]]) -> list[Any]:
        bucket, (data, is_last) = Bucket.from_key(element[0]), element[1]
        close = is_last and bucket.end <= self._closable()
        contribution = Contribution.from_json(data)
        delivered = delivered_of(self._buckets, bucket.stream, self._horizon)
        leases = None if self._ends else lent(self._subscription)
        brings = bool(contribution.packs)
        # Not closed while something that belongs to it could not be written.
        kept_back = contribution.trouble or (leases and leases.troubles.keeps_back(bucket.folder, brings))
        try:
            receipts = commit(self._buckets, bucket, contribution, close and not kept_back, utc_now, new_id, delivered)
        except DAMAGE as error:
            if self._ends:
                return [at(bucket.hour, f"{bucket.folder}: {error}")]
            if not leases:
                raise
            leases.troubles.met(bucket.folder, f"{bucket.folder}: {error}", keeps_back=brings)
            leases.put_off(contribution.packs)
            return []
        if leases:
            leases.troubles.over(bucket.folder, brings)
        self._committed.extend(contribution.packs)
        trouble = [at(bucket.hour, f"{bucket.folder}: {contribution.trouble}")] if contribution.trouble else []
        return trouble + [at(receipt.bucket.hour, receipt) for receipt in receipts if receipt.version]

    def finish_bundle(self) -> list[Any]:
        try:
            return super().finish_bundle()
        finally:
            # All in one go: where Pub/Sub is away, it is waited for once, and not once for each bucket.
            if leases := lent(self._subscription):
                leases.settle(self._committed)
