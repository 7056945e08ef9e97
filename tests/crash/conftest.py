"""Fixtures of the crash tests: the fork servers and brokers that the tests of one process share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.crash.kill_report import Kills
from tests.crash.worlds import Field, Place, open_places
from tests.support.pubsub import answer_soon


@pytest.fixture(scope="module", autouse=True)
def quick_responses() -> Iterator[None]:
    """Let brokers answer empty pulls soon. Not for the session: other tests of this process measure how long a broker waits."""
    with pytest.MonkeyPatch.context() as patch:
        answer_soon(patch)
        yield


@pytest.fixture(scope="session")
def places() -> Iterator[list[Place]]:
    """Open two places, since some tests run two processes at once."""
    with open_places(2) as places:
        yield places


@pytest.fixture
def field(places: list[Place], kills: Kills) -> Field:
    return Field(places, kills)
