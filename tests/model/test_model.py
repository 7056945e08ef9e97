"""Whatever happens in whatever order, the promises hold: deliver against a model that is a set of messages."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model.recovery_rules import DeliveryAndWaysBack

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process leaves that is killed does not depend on the disk's caches."""
    for name in ("flush", "flush_folder"):
        monkeypatch.setattr(f"storage.objects.local.{name}", lambda _: None)


def test_promises_hold_in_whatever_order_things_happen() -> None:
    run_state_machine_as_test(
        DeliveryAndWaysBack,
        settings=settings(max_examples=80, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)),
    )
