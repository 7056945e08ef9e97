"""The periodic source, and the hours that a stream sweeps at its ticks."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest
from apache_beam.io.unbounded_source import UnboundedReader
from apache_beam.utils.timestamp import MAX_TIMESTAMP, Timestamp
from google.cloud import pubsub_v1

from schemas.buckets import DEAD_LETTERS, HOUR, Bucket
from schemas.envelope import format_time
from storage.buckets.manifest import Manifest
from storage.objects.local import Directory
from transforms.load.transform import _load_of
from transforms.pubsub.leases import Leases
from transforms.pubsub.source import WATERMARK_DELAY
from transforms.sweep import timer_source as ticks
from transforms.sweep.timer_source import PeriodicSource
from transforms.sweep.transform import SWEEP_EVERY, SweepPeriodically, hours_to_sweep

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


class UnusedClient:
    """A client that must get no request."""

    def modify_ack_deadline(self, **_: object) -> None:
        raise AssertionError("no message is held")


@pytest.fixture
def leases() -> Iterator[Leases]:
    with Leases("subscription-of-ticks", cast(pubsub_v1.SubscriberClient, UnusedClient())) as leases:
        yield leases


def set_clock(monkeypatch: pytest.MonkeyPatch, now: datetime) -> None:
    monkeypatch.setattr(ticks, "utc_now", lambda: now)


def moments(reader: UnboundedReader) -> list[datetime]:
    found = []
    while reader.advance():
        found.append(reader.get_current_timestamp().to_utc_datetime(has_tz=True))
    return found


def test_periodic_source__ticks(leases: Leases, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ticks are emitted when due, continue from the checkpoint, and end when the leases stop."""
    source = PeriodicSource(leases.subscription, NOON, 5 * MINUTE)
    set_clock(monkeypatch, NOON + 7 * MINUTE)
    reader = source.create_reader(None, None)
    assert moments(reader) == [NOON, NOON + 5 * MINUTE]
    assert reader.get_watermark() == Timestamp.of((NOON + 7 * MINUTE - WATERMARK_DELAY).timestamp())

    resumed = source.create_reader(None, reader.get_checkpoint_mark())
    assert moments(resumed) == []
    set_clock(monkeypatch, NOON + 10 * MINUTE)
    assert moments(resumed) == [NOON + 10 * MINUTE]
    leases.stop()
    set_clock(monkeypatch, NOON + 30 * MINUTE)
    assert moments(resumed) == []
    assert resumed.get_watermark() == MAX_TIMESTAMP


def test_hours__old_hour_with_unresolved_failure(leases: Leases, tmp_path: Path) -> None:
    """An hour with an unresolved failure is swept, however old: a late event arrived, and its table can't be loaded."""
    old, dead = Bucket("search_made", NOON - 50 * HOUR), Bucket(DEAD_LETTERS, NOON - 60 * HOUR)
    watch = SweepPeriodically(Directory(tmp_path), [old.stream, DEAD_LETTERS], NOON - 99 * HOUR, NOON, leases.subscription)

    def swept() -> list[str]:
        return watch._sweep(b"", Timestamp.of((NOON + 5 * MINUTE).timestamp()))

    leases.failures.failed(_load_of(old), "its table is unreachable")
    leases.failures.failed(dead.folder, "an index is broken", blocks_closing=True)
    assert swept() == [format_time(dead.hour), format_time(old.hour)]
    leases.failures.recovered(_load_of(old))
    assert swept() == [format_time(dead.hour)]


def test_hours_to_sweep__until_loaded(tmp_path: Path) -> None:
    """An hour is swept when it begins, and from its end until it is closed and loaded."""
    store = Directory(tmp_path)
    bucket = Bucket("search_made", NOON)
    store.create(bucket.version_name(1), Manifest(bucket, 1).to_json())
    sweep = lambda tick: hours_to_sweep(tick, store, ["search_made", "tap"])  # noqa: E731
    assert sweep(NOON) == {NOON}
    assert sweep(NOON + 5 * MINUTE) == set()
    assert sweep(NOON + HOUR) == {NOON + HOUR}
    assert sweep(NOON + HOUR + SWEEP_EVERY) == sweep(NOON + HOUR + 2 * SWEEP_EVERY) == {NOON}
    store.create(bucket.success_name, b"")
    assert sweep(NOON + HOUR + SWEEP_EVERY) == {NOON}
    store.create(bucket.loaded_name(1), b"")
    assert sweep(NOON + HOUR + SWEEP_EVERY) == set()
