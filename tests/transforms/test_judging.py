"""Judging, without an engine: what a verdict makes of hours that were delivered by deliver's own steps."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from schemas.buckets import HOUR, hour_of
from schemas.contracts import load_contracts
from schemas.verdicts import Status
from tests.model.process import LATENESS, Message, Process, Stopping
from tests.model.sets import report_of
from transforms.judging import judge_hours
from transforms.ledger import keep
from transforms.tables.duckdb_file import DuckDBFile

NINE = datetime(2026, 1, 31, 9, 5, tzinfo=UTC)
LATER = NINE + LATENESS + 2 * HOUR


@pytest.fixture
def tables(tmp_path: Path) -> Iterator[DuckDBFile]:
    tables = DuckDBFile(tmp_path / "tables.duckdb")
    yield tables
    tables.close()


@pytest.mark.parametrize("lost", [False, True])
def test_an_event_that_came_in_time_and_again_too_late_is_not_missing(tmp_path: Path, tables: DuckDBFile, lost: bool) -> None:
    """A client that retries long after: two messages were published for the hour, and one was received in it."""
    folder = tmp_path / "contracts" / "thing"
    folder.mkdir(parents=True)
    contract = {"type": "record", "name": "thing", "fields": [{"name": "x", "type": "int"}]}
    (folder / "v1.avsc").write_text(json.dumps(contract))
    buckets = Stopping(tmp_path / "buckets")
    process = Process(buckets, tables, load_contracts(folder.parent), 1)
    said = {"event_type": "thing", "event_id": "a", "received_at": NINE.isoformat()}
    for name, moment in [("first", NINE), *([] if lost else [("again", LATER)])]:
        process.run([Message(b'{"x": 1}', said, name, moment)], LATER + timedelta(hours=2))
    keep(buckets, [report_of("thing", hour_of(NINE), ["a", "a"])])
    [verdict] = judge_hours(buckets, tables, [hour_of(NINE)])
    assert verdict.status == (Status.MISSING if lost else Status.COMPLETE), verdict
