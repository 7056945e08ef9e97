"""Whatever happens in any order, the promises hold: deliver against a model that is a set of messages."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model.recovery_rules import DeliveryAndRecovery

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip fsync: the files that a killed process leaves do not depend on the disk's caches."""
    for name in ("flush", "flush_folder"):
        monkeypatch.setattr(f"storage.objects.local.{name}", lambda _: None)


@pytest.mark.parametrize("histories", [20, pytest.param(100, marks=pytest.mark.slow)])
def test_deliver__promises_hold_in_any_order(histories: int) -> None:
    run_state_machine_as_test(
        DeliveryAndRecovery,
        settings=settings(max_examples=histories, stateful_step_count=25, suppress_health_check=list(HealthCheck)),
    )
