"""Whole runs during an outage of Pub/Sub, or with lost responses: the real client, over a connection that can be cut."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from google.api_core.exceptions import ServiceUnavailable

from local.pubsub.broker import Broker
from pipelines import pubsub_clients as clients
from tests.support.clock import CLOCK, eventually
from tests.support.delivery import SEARCH, TAP, World, make_world, use_broker
from tests.support.proxy import Proxy
from tests.support.pubsub import pull_now, subscriber
from tests.support.stores import Delivery
from tests.support.streams import streaming
from tests.support.tables import duckdb_store
from transforms import report as reporting
from transforms.pubsub import retry as pubsub
from transforms.pubsub.leases import LEASE_SECONDS, Leases
from transforms.report import _Report

pytestmark = pytest.mark.integration

MOMENTS: dict[str, tuple[type, str]] = {
    "when messages were taken": (Leases, "assign_pack"),
    "before they are acknowledged": (Leases, "ack_packs"),
    "before the report": (_Report, "finish_bundle"),
}


class Away(Delivery):
    """A delivery over a connection to Pub/Sub that can be cut, by a broker whose leases can be made to expire."""

    proxy: Proxy
    ahead: list[float]

    def leases_run_out(self) -> None:
        """Release all leased messages, as if their leases had expired. The clock is right again afterwards."""
        self.ahead[0] = LEASE_SECONDS + 1
        with subscriber(self.world.address) as client:
            for subscription in (self.world.subscription, self.world.audit_subscription):
                if ack_ids := [received.ack_id for received in pull_now(client, subscription)]:
                    client.modify_ack_deadline(subscription=subscription, ack_ids=ack_ids, ack_deadline_seconds=0)
        self.ahead[0] = 0

    def come_back(self) -> None:
        """Restore the connection, and wait until clients of this process use it: they share a back-off before reconnecting."""
        self.proxy.restore()
        with clients.publisher() as client:
            assert eventually(lambda: _answers(lambda: client.get_topic(topic=self.world.topic, retry=None, timeout=5)))

    def do_once(self, moment: str, act: Callable[[], object]) -> None:
        """Call `act` the first time that a run reaches that moment."""
        owner, name = MOMENTS[moment]
        real, acts_left = getattr(owner, name), [act]

        def act_first(*arguments: Any) -> Any:
            # After the call; before it only in steps that themselves send requests to Pub/Sub.
            result = real(*arguments) if name == "assign_pack" else None
            if acts_left:
                acts_left.pop()()
            return result if name == "assign_pack" else real(*arguments)

        self.monkeypatch.setattr(owner, name, act_first)


def _answers(call: Callable[[], object]) -> bool:
    try:
        call()
    except ServiceUnavailable:
        return False
    return True


@pytest.fixture
def away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Away]:
    ahead = [0.0]
    with (
        Broker(clock=lambda: CLOCK.seconds() + ahead[0]) as broker,
        Proxy(broker.address) as proxy,
        duckdb_store(tmp_path) as store,
    ):
        use_broker(monkeypatch, proxy.address)
        world = make_world(tmp_path, broker.address, {"search_made": SEARCH, "tap": TAP})
        delivery = Away(world, store, monkeypatch, capsys)
        delivery.proxy, delivery.ahead = proxy, ahead
        yield delivery


@pytest.mark.parametrize("moment", list(MOMENTS))
def test_deliver__short_outage(away: Away, moment: str) -> None:
    away.publish("a", "b", "c")
    restore = threading.Timer(1.5, away.proxy.restore)

    def cut_briefly() -> None:
        away.proxy.cut()
        restore.start()

    away.do_once(moment, cut_briefly)
    assert away.run() == (0, "")
    restore.join()
    away.check()


@pytest.mark.parametrize(
    ("moment", "problem"),
    list(
        zip(
            MOMENTS,
            ["Pub/Sub has been unreachable for 2 s", "Pub/Sub has been unreachable for 2 s", "accepted no report for 2 s"],
            strict=True,
        )
    ),
)
def test_deliver__outage_without_end(away: Away, moment: str, problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If Pub/Sub stays unreachable, the run ends with a clear error, and the next one delivers everything."""
    monkeypatch.setattr(pubsub, "RETRY_SECONDS", 2.0)
    monkeypatch.setattr(reporting, "REPORT_SECONDS", 2.0)
    away.publish("a", "b", "c")
    away.do_once(moment, away.proxy.cut)
    status, error = away.run()
    assert status == 2
    assert problem in error
    assert "run the command again" in error

    away.come_back()
    away.leases_run_out()
    away.publish("d")
    assert away.run() == (0, "")
    away.check(repeated=True)


@pytest.mark.parametrize("method", ["Pull", "ModifyAckDeadline", "Acknowledge", "Publish"])
def test_deliver__lost_responses_of_pubsub(away: Away, method: str) -> None:
    away.publish("a", "b", "c")
    away.proxy.lose_answer(f"/{method}".encode(), 2)
    assert away.run() == (0, "")
    assert away.proxy.lost == 2
    # Messages of a lost response are redelivered when their leases have expired.
    away.leases_run_out()
    assert away.run() == (0, "")
    away.check(repeated=method == "ModifyAckDeadline")


def test_stream__outage(away: Away, prism_binary: str) -> None:
    """A stream continues after an outage, and ends with a clear error if Pub/Sub stays unreachable."""
    world = away.world
    settings = "from transforms.pubsub import retry; retry.RETRY_SECONDS = 10.0"
    with streaming(world, prism_binary, "--flush_every=1s", settings=settings, address=away.proxy.address) as running:
        away.publish("a", "b")
        assert eventually(lambda: delivered(world) == ["a", "b"]), running.end()
        away.proxy.cut()
        away.publish("c", "d")
        time.sleep(2)
        away.proxy.restore()
        assert eventually(lambda: delivered(world) == ["a", "b", "c", "d"]), running.end()
        away.proxy.cut()
        away.publish("e", "f")
        status, error = running.wait()
    assert status == 2, error
    assert "Pub/Sub does not answer, retrying for 10 s" in error
    assert error.count("\nerror: ") == 1
    assert "Pub/Sub has been unreachable for 10 s" in error.splitlines()[-1], error
    assert "run the command again when Pub/Sub is reachable" in error.splitlines()[-1]
    assert "Traceback" not in error

    away.come_back()
    away.leases_run_out()
    assert away.run() == (0, "")
    away.check(repeated=True)


def delivered(world: World) -> list[str]:
    return [row["event_id"] for row in world.rows("search_made")]
