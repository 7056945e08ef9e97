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
from tests.support.delivery import SEARCH, TAP, World, at_once, make_world
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

    way: Proxy
    ahead: list[float]

    def leases_run_out(self) -> None:
        """Release all leased messages, as if their leases had expired. The clock is right again afterwards."""
        self.ahead[0] = LEASE_SECONDS + 1
        with subscriber(self.world.address) as client:
            for subscription in (self.world.subscription, self.world.audit_subscription):
                if ack_ids := [one.ack_id for one in pull_now(client, subscription)]:
                    client.modify_ack_deadline(subscription=subscription, ack_ids=ack_ids, ack_deadline_seconds=0)
        self.ahead[0] = 0

    def come_back(self) -> None:
        """Restore the connection, and wait until clients of this process use it: they share a back-off before reconnecting."""
        self.way.mend()
        with clients.publisher() as client:
            assert eventually(lambda: _answers(lambda: client.get_topic(topic=self.world.topic, retry=None, timeout=5)))

    def do_once(self, moment: str, act: Callable[[], object]) -> None:
        """Call `act` the first time that a run reaches that moment."""
        kind, name = MOMENTS[moment]
        real, todo = getattr(kind, name), [act]

        def acting(*arguments: Any) -> Any:
            # After the call; before it only in steps that themselves send requests to Pub/Sub.
            given = real(*arguments) if name == "assign_pack" else None
            if todo:
                todo.pop()()
            return given if name == "assign_pack" else real(*arguments)

        self.monkeypatch.setattr(kind, name, acting)


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
        Proxy(broker.address) as way,
        duckdb_store(tmp_path) as store,
    ):
        at_once(monkeypatch, way.address)
        world = make_world(tmp_path, broker.address, {"search_made": SEARCH, "tap": TAP})
        delivery = Away(world, store, monkeypatch, capsys)
        delivery.way, delivery.ahead = way, ahead
        yield delivery


@pytest.mark.parametrize("moment", list(MOMENTS))
def test_deliver__short_outage(away: Away, moment: str) -> None:
    away.publish("a", "b", "c")
    back = threading.Timer(1.5, away.way.mend)

    def go() -> None:
        away.way.cut()
        back.start()

    away.do_once(moment, go)
    assert away.run() == (0, "")
    back.join()
    away.check()


@pytest.mark.parametrize(
    ("moment", "told"),
    list(
        zip(
            MOMENTS,
            ["Pub/Sub has been unreachable for 2 s", "Pub/Sub has been unreachable for 2 s", "accepted no report for 2 s"],
            strict=True,
        )
    ),
)
def test_deliver__outage_without_end(away: Away, moment: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If Pub/Sub stays unreachable, the run ends with a clear error, and the next one delivers everything."""
    monkeypatch.setattr(pubsub, "RETRY_SECONDS", 2.0)
    monkeypatch.setattr(reporting, "REPORT_SECONDS", 2.0)
    away.publish("a", "b", "c")
    away.do_once(moment, away.way.cut)
    status, said = away.run()
    assert status == 2
    assert told in said
    assert "run the command again" in said

    away.come_back()
    away.leases_run_out()
    away.publish("d")
    assert away.run() == (0, "")
    away.check(repeated=True)


@pytest.mark.parametrize("method", ["Pull", "ModifyAckDeadline", "Acknowledge", "Publish"])
def test_deliver__lost_responses_of_pubsub(away: Away, method: str) -> None:
    away.publish("a", "b", "c")
    away.way.lose_answer(f"/{method}".encode(), 2)
    assert away.run() == (0, "")
    assert away.way.lost == 2
    # Messages of a lost response are redelivered when their leases have expired.
    away.leases_run_out()
    assert away.run() == (0, "")
    away.check(repeated=method == "ModifyAckDeadline")


def test_stream__outage(away: Away, prism_binary: str) -> None:
    """A stream continues after an outage, and ends with a clear error if Pub/Sub stays unreachable."""
    world = away.world
    settings = "from transforms.pubsub import retry; retry.RETRY_SECONDS = 10.0"
    with streaming(world, prism_binary, "--flush_every=1s", settings=settings, address=away.way.address) as running:
        away.publish("a", "b")
        assert eventually(lambda: delivered(world) == ["a", "b"]), running.end()
        away.way.cut()
        away.publish("c", "d")
        time.sleep(2)
        away.way.mend()
        assert eventually(lambda: delivered(world) == ["a", "b", "c", "d"]), running.end()
        away.way.cut()
        away.publish("e", "f")
        status, said = running.wait()
    assert status == 2, said
    assert "Pub/Sub does not answer, retrying for 10 s" in said
    assert said.count("\nerror: ") == 1
    assert "Pub/Sub has been unreachable for 10 s" in said.splitlines()[-1], said
    assert "run the command again when Pub/Sub is reachable" in said.splitlines()[-1]
    assert "Traceback" not in said

    away.come_back()
    away.leases_run_out()
    assert away.run() == (0, "")
    away.check(repeated=True)


def delivered(world: World) -> list[str]:
    return [row["event_id"] for row in world.rows("search_made")]
