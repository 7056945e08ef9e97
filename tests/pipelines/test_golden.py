"""Golden pairs for the whole graph: inputs and expected outputs, both written by hand."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from schemas.envelope import format_time
from tests.support.delivery import LONG_AGO, World

pytestmark = pytest.mark.integration

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
STREAMS = ("search_made", "tap", "dead_letters")


def plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return format_time(value)
    return value.decode() if isinstance(value, bytes) else value


def test_deliver__golden_pairs(world: World) -> None:
    """The golden messages give the golden rows, counters and table."""
    expected = json.loads((GOLDEN / "output.json").read_text())
    lines = [json.loads(line) for line in (GOLDEN / "input.ndjson").read_text().splitlines()]
    for line in lines:
        # One at a time: of two messages with the same id, the first to arrive is delivered.
        world.publish((line["data"].encode(), line["attributes"]))
    world.deliver(LONG_AGO)
    for stream in STREAMS:
        found = [{name: plain(row[name]) for name in expected[stream][0]} for row in world.rows(stream)]
        assert sorted(found, key=lambda row: row["event_id"]) == expected[stream]
        names = ", ".join(name for name in expected[stream][0] if name != "data")
        in_table = world.query(f"SELECT {names} FROM {stream} ORDER BY event_id")
        wanted = [tuple(value for name, value in row.items() if name != "data") for row in expected[stream]]
        assert [tuple(map(plain, row)) for row in in_table] == wanted
    counts = {
        f"{stream} {hour:%H}": manifest["counts"] for stream in STREAMS for hour, manifest in world.manifests(stream).items()
    }
    assert counts == expected["counts"]
