"""Fixtures of the crash tests: the fork servers and brokers that the tests of one process share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.crash.kill_report import Kills
from tests.crash.worlds import Field, Place, open_places


@pytest.fixture(scope="session")
def places() -> Iterator[list[Place]]:
    """Open two places, since some tests run two processes at once."""
    with open_places(2) as places:
        yield places


@pytest.fixture
def field(places: list[Place], kills: Kills) -> Field:
    return Field(places, kills)
