"""What a stream goes on without: when it is told, when it is over, and what becomes of the messages."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from schemas.buckets import Bucket
from storage.buckets.committable import LOOK, Contribution
from storage.buckets.manifest_store import newest_receipt
from storage.objects.base import Damaged
from storage.objects.local import Directory
from tests.support.pubsub import FakeClock
from transforms.commit import transform as closing
from transforms.commit.commit import commit
from transforms.commit.transform import _Commit
from transforms.failures import PAUSES, TELL_AGAIN_SECONDS, Troubles
from transforms.pubsub.leases import PUT_OFF_SECONDS, Leases

SUBSCRIPTION = "projects/p/subscriptions/s"
BUCKET = Bucket("thing", datetime(2026, 1, 31, 12, tzinfo=UTC))
MESSAGES = Contribution("work", {"thing": {}}, packs=("pack",))


class Client:
    """Listens to what is asked of leases."""

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
    leases.pack("pack", ["1", "2"])
    monkeypatch.setattr(closing, "lent", {SUBSCRIPTION: leases}.get)
    return leases


def test_a_trouble_is_told_once_and_then_now_and_then_and_when_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock = FakeClock(0)
    troubles = Troubles(lambda: 60, clock)
    for _ in range(int(TELL_AGAIN_SECONDS)):
        troubles.met("a", "a: broken")
        clock.advance(1)
    assert len(caplog.messages) == 1
    troubles.met("a", "a: broken")
    assert caplog.messages == ["a: broken. The rest goes on, and this is tried again"] * 2
    troubles.met("a", "a: gone")
    assert troubles.left() == ["a: gone"]
    troubles.over("b")
    troubles.over("a")
    troubles.over("a")
    assert caplog.messages[2:] == ["a: gone. The rest goes on, and this is tried again", "a: all goes well again"]
    assert troubles.left() == []


def test_a_trouble_that_keeps_messages_back_is_over_when_all_have_had_time_to_come_again() -> None:
    clock = FakeClock(0)
    troubles = Troubles(lambda: 60, clock)
    troubles.met("a", "broken", keeps_back=True)
    clock.advance(50)
    troubles.met("a", "broken")
    for brings, seconds in ((False, 0), (True, 0), (False, 60)):
        clock.advance(seconds)
        assert troubles.keeps_back("a", brings)
        troubles.over("a", brings)
    assert not troubles.keeps_back("a", True)
    assert troubles.left() == ["broken"]
    troubles.over("a", True)
    assert troubles.left() == []


def test_messages_that_never_come_again_keep_nothing_back_for_ever() -> None:
    """Another run has taken them, or somebody has purged the subscription."""
    clock = FakeClock(0)
    troubles = Troubles(lambda: 60, clock)
    troubles.met("a", "broken", keeps_back=True)
    clock.advance(60 * PAUSES - 1)
    troubles.over("a")
    assert troubles.left() == ["broken"]
    clock.advance(1)
    troubles.over("a")
    assert troubles.left() == []


def test_messages_that_are_put_off_are_not_held_and_come_again_later_or_at_once_where_the_stream_ends(
    leases: Leases, client: Client
) -> None:
    leases.put_off(["pack", "of another process"])
    assert leases.held == 1
    leases.pack("last", ["3"])
    leases.stop()
    leases.put_off(["last"])
    assert leases.held == 0
    assert client.modified == [(["ack 1", "ack 2"], PUT_OFF_SECONDS), (["ack 3"], 0)]


def test_a_bucket_is_not_closed_before_what_was_put_off_has_come_again(
    leases: Leases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    buckets, clock = Directory(tmp_path), FakeClock(0)
    leases.troubles = Troubles(lambda: 60, clock)
    step = _Commit(buckets, lambda: BUCKET.end, timedelta(days=1), SUBSCRIPTION, ends=False)

    def bring(contribution: Contribution) -> list[Any]:
        return step.act((BUCKET.key, (contribution.to_json(), True)))

    def refuse(*_: Any) -> Any:
        raise Damaged("an index is broken")

    step.start_bundle()
    monkeypatch.setattr(closing, "commit", refuse)
    assert bring(MESSAGES) == []
    assert leases.troubles.left() == [f"{BUCKET.folder}: an index is broken"]
    assert leases.held == 1
    monkeypatch.setattr(closing, "commit", commit)
    bring(LOOK)
    assert not newest_receipt(buckets, BUCKET).closed
    clock.advance(61)
    bring(LOOK)
    assert not newest_receipt(buckets, BUCKET).closed
    bring(MESSAGES)
    assert newest_receipt(buckets, BUCKET).closed
    assert leases.troubles.left() == []


def test_an_engine_that_tries_again_is_told_of_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise Damaged("an index is broken")

    monkeypatch.setattr(closing, "commit", refuse)
    step = _Commit(Directory(tmp_path), lambda: BUCKET.end, timedelta(days=1), None, ends=False)
    with pytest.raises(Damaged):
        step.act((BUCKET.key, (MESSAGES.to_json(), True)))
