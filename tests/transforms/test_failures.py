"""Failures that a stream skips: when they are logged, when they are resolved, and when their messages are redelivered."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from schemas.buckets import Bucket
from storage.buckets.committable import CLOSE_CHECK, Committable
from storage.buckets.manifest_store import latest_manifest
from storage.objects.base import Damaged
from storage.objects.local import Directory
from tests.support.pubsub import FakeClock
from transforms.commit import transform as closing
from transforms.commit.commit import commit
from transforms.commit.transform import _Commit
from transforms.dedup.delivered_index import DeliveredIndexes
from transforms.failures import PAUSES, WARN_AGAIN_SECONDS, FailureTracker
from transforms.pubsub.leases import NACK_DELAY_SECONDS, Leases

SUBSCRIPTION = "projects/p/subscriptions/s"
BUCKET = Bucket("thing", datetime(2026, 1, 31, 12, tzinfo=UTC))
MESSAGES = Committable("work", {"thing": {}}, packs=("pack",))


class Client:
    """Records changes of ack deadlines."""

    def __init__(self) -> None:
        self.modified: list[tuple[list[str], int]] = []

    def modify_ack_deadline(self, *, ack_ids: list[str], ack_deadline_seconds: int, **_: Any) -> None:
        self.modified.append((ack_ids, ack_deadline_seconds))


@pytest.fixture
def client() -> Client:
    return Client()


@pytest.fixture
def leases(client: Client, monkeypatch: pytest.MonkeyPatch) -> Leases:
    leases = Leases(SUBSCRIPTION, client)
    leases._held = {"1": "ack 1", "2": "ack 2", "3": "ack 3"}
    leases.assign_pack("pack", ["1", "2"])
    monkeypatch.setattr(closing, "leases_for", {SUBSCRIPTION: leases}.get)
    return leases


def test_failed__warns_at_once_then_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock = FakeClock(0)
    failures = FailureTracker(lambda: 60, clock)
    for _ in range(int(WARN_AGAIN_SECONDS)):
        failures.failed("a", "a: broken")
        clock.advance(1)
    assert len(caplog.messages) == 1
    failures.failed("a", "a: broken")
    assert caplog.messages == ["a: broken: skipping this bucket, will retry"] * 2
    failures.failed("a", "a: gone")
    assert failures.unresolved() == ["a: gone"]
    failures.recovered("b")
    failures.recovered("a")
    failures.recovered("a")
    assert caplog.messages[2:] == ["a: gone: skipping this bucket, will retry", "a: recovered"]
    assert failures.unresolved() == []


def test_recovered__waits_for_nacked_messages() -> None:
    clock = FakeClock(0)
    failures = FailureTracker(lambda: 60, clock)
    failures.failed("a", "broken", blocks_closing=True)
    clock.advance(50)
    failures.failed("a", "broken")
    for has_messages, seconds in ((False, 0), (True, 0), (False, 60)):
        clock.advance(seconds)
        assert failures.blocks_closing("a", has_messages)
        failures.recovered("a", has_messages)
    assert not failures.blocks_closing("a", True)
    assert failures.unresolved() == ["broken"]
    failures.recovered("a", True)
    assert failures.unresolved() == []


def test_recovered__nacked_messages_are_gone() -> None:
    """A bucket is unblocked after a while if its messages are never redelivered.

    Another run may have acknowledged them, or the subscription may have been purged.
    """
    clock = FakeClock(0)
    failures = FailureTracker(lambda: 60, clock)
    failures.failed("a", "broken", blocks_closing=True)
    clock.advance(60 * PAUSES - 1)
    failures.recovered("a")
    assert failures.unresolved() == ["broken"]
    clock.advance(1)
    failures.recovered("a")
    assert failures.unresolved() == []


def test_nack_later__delay(leases: Leases, client: Client) -> None:
    """Messages are nacked with a delay, or at once if the stream is ending. They are no longer held."""
    leases.nack_later(["pack", "of another process"])
    assert leases.held == 1
    leases.assign_pack("last", ["3"])
    leases.stop()
    leases.nack_later(["last"])
    assert leases.held == 0
    assert client.modified == [(["ack 1", "ack 2"], NACK_DELAY_SECONDS), (["ack 3"], 0)]


def test_commit__does_not_close_before_redelivery(leases: Leases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bucket is not closed before its nacked messages are redelivered."""
    store, clock = Directory(tmp_path), FakeClock(0)
    leases.failures = FailureTracker(lambda: 60, clock)
    step = _Commit(store, lambda: BUCKET.end, DeliveredIndexes(store, timedelta(days=1)), SUBSCRIPTION, bounded=False)

    def process(committable: Committable) -> list[Any]:
        return step.process_one((BUCKET.key, (committable.to_json(), True)))

    def refuse(*_: Any) -> Any:
        raise Damaged("an index is broken")

    step.start_bundle()
    monkeypatch.setattr(closing, "commit", refuse)
    assert process(MESSAGES) == []
    assert leases.failures.unresolved() == [f"{BUCKET.folder}: an index is broken"]
    assert leases.held == 1
    monkeypatch.setattr(closing, "commit", commit)
    process(CLOSE_CHECK)
    assert not latest_manifest(store, BUCKET).closed
    clock.advance(61)
    process(CLOSE_CHECK)
    assert not latest_manifest(store, BUCKET).closed
    process(MESSAGES)
    assert latest_manifest(store, BUCKET).closed
    assert leases.failures.unresolved() == []


def test_commit__raises_for_a_runner_that_retries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without leases, damage is raised so that the runner retries."""

    def refuse(*_: Any) -> Any:
        raise Damaged("an index is broken")

    monkeypatch.setattr(closing, "commit", refuse)
    store = Directory(tmp_path)
    step = _Commit(store, lambda: BUCKET.end, DeliveredIndexes(store, timedelta(days=1)), None, bounded=False)
    step.start_bundle()
    with pytest.raises(Damaged):
        step.process_one((BUCKET.key, (MESSAGES.to_json(), True)))
