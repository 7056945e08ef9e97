"""From files to manifests: thin Beam shells around `commit`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import apache_beam as beam
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import TimerSpec, on_timer
from apache_beam.transforms.util import ReshufflePerKey
from apache_beam.transforms.window import GlobalWindows, IntervalWindow
from apache_beam.utils.windowed_value import PaneInfo, PaneInfoTiming

from schemas.buckets import Bucket
from storage.buckets.committable import CLOSE_CHECK, Committable, combine
from storage.buckets.manifest import Manifest
from storage.buckets.manifest_store import DAMAGE
from storage.objects.base import ObjectStore
from transforms.clocks import Clock, new_id, utc_now
from transforms.commit.commit import commit
from transforms.dedup.delivered_index import DeliveredIndexes
from transforms.metrics import BUCKETS_SKIPPED
from transforms.parallel import ParallelByBucket
from transforms.pubsub.leases import leases_for
from transforms.windows import HourlyWindows, in_hour


class CommitBuckets(beam.PTransform):  # type: ignore[misc]
    """Takes committables by bucket, from several sources by name. Gives each bucket's newest manifest once they are in it.

    closing_clock: a bucket closes when its hour's last pane has come and this clock has passed its end. A drain moves the
    watermark, not the clock; a run that takes what was there when it began must not close what came after.
    subscription: the one whose messages this process has leased (`transforms.pubsub.leases`): they are acknowledged here.
    A bucket whose own objects are damaged stops no other. In a run that ends, a text that says so comes in place of its
    manifest; in a stream whose messages this process has leased they are nacked. Another engine tries it again.
    """

    def __init__(
        self,
        store: ObjectStore,
        closing_clock: Clock,
        windows: HourlyWindows,
        delivered: DeliveredIndexes,
        subscription: str | None,
        bounded: bool,
    ) -> None:
        super().__init__()
        self._windows = windows
        self._fn = _Commit(store, closing_clock, delivered, subscription, bounded)

    def expand(self, committables: Mapping[str, beam.PCollection]) -> beam.PCollection:
        return (
            [source | f"{name} by hour" >> self._windows for name, source in committables.items()]
            | "Join" >> beam.Flatten()
            | "Group by bucket" >> beam.GroupByKey()
            | "Combine" >> beam.ParDo(_Combine()).with_output_types(tuple[str, tuple[bytes, bool]])
            # Prism can't read what a reshuffle of windows of an hour writes; from here on the key alone says the hour.
            | "Out of hours" >> beam.WindowInto(GlobalWindows())
            # What one commit adds has to be the same at every try of it: a grouping alone does not promise that.
            | "Fix" >> ReshufflePerKey()
            | "Commit" >> beam.ParDo(self._fn).with_output_types(Manifest | str)
        )


class _Combine(beam.DoFn):  # type: ignore[misc]
    """Makes one committable of a pane. An hour whose early panes took all there was need not get a pane when it is over (Prism
    gives none that is empty), so after an early pane a timer emits the last close check."""

    END = TimerSpec("end", TimeDomain.WATERMARK)

    def process(
        self,
        element: tuple[str, Iterable[bytes]],
        pane: PaneInfo = beam.DoFn.PaneInfoParam,
        window: IntervalWindow = beam.DoFn.WindowParam,
        end: Any = beam.DoFn.TimerParam(END),  # noqa: B008 - how Beam declares a timer
    ) -> Iterator[tuple[str, tuple[bytes, bool]]]:
        key, committables = element
        is_last = pane.timing != PaneInfoTiming.EARLY
        if is_last:
            end.clear()
        else:
            end.set(window.end)
        yield key, (combine(map(Committable.from_json, committables)).to_json(), is_last)

    @on_timer(END)  # type: ignore[untyped-decorator]
    def check_close(self, key: str = beam.DoFn.KeyParam) -> Iterator[tuple[str, tuple[bytes, bool]]]:
        yield key, (CLOSE_CHECK.to_json(), True)


class _Commit(ParallelByBucket):
    def __init__(
        self, store: ObjectStore, closing_clock: Clock, delivered: DeliveredIndexes, subscription: str | None, bounded: bool
    ) -> None:
        self._store = store
        self._closing_clock = closing_clock
        self._delivered = delivered
        self._subscription = subscription
        self._bounded = bounded

    def start_bundle(self) -> None:
        super().start_bundle()
        self._committed: list[str] = []

    def key_of(self, element: tuple[str, tuple[bytes, bool]]) -> Bucket:
        return Bucket.from_key(element[0])

    def process_one(self, element: tuple[str, tuple[bytes, bool]]) -> list[Any]:
        bucket, (data, is_last) = Bucket.from_key(element[0]), element[1]
        close = is_last and bucket.end <= self._closing_clock()
        committable = Committable.from_json(data)
        leases = None if self._bounded else leases_for(self._subscription)
        has_messages = bool(committable.packs)
        # Not closed while something that belongs to it could not be written.
        blocked = committable.failure or (leases and leases.failures.blocks_closing(bucket.folder, has_messages))
        try:
            manifests = commit(
                self._store, bucket, committable, close and not blocked, utc_now, new_id, self._delivered, self.metrics
            )
        except DAMAGE as error:
            self.metrics.add(BUCKETS_SKIPPED)
            if self._bounded:
                return [in_hour(f"{bucket.folder}: {error}", bucket.hour)]
            if not leases:
                raise
            leases.failures.failed(bucket.folder, f"{bucket.folder}: {error}", blocks_closing=has_messages)
            leases.nack_later(committable.packs)
            return []
        if leases:
            leases.failures.recovered(bucket.folder, has_messages)
        self._committed.extend(committable.packs)
        failures = [in_hour(f"{bucket.folder}: {committable.failure}", bucket.hour)] if committable.failure else []
        return failures + [in_hour(manifest, manifest.bucket.hour) for manifest in manifests if manifest.version]

    def finish_bundle(self) -> list[Any]:
        try:
            return super().finish_bundle()
        finally:
            # All in one go: where Pub/Sub is unreachable, it is waited for once, and not once for each bucket.
            if leases := leases_for(self._subscription):
                leases.ack_packs(self._committed)
