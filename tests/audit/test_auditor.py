"""Judging, without an engine: what a verdict makes of hours that were delivered by deliver's own steps."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from audit.auditor import judge_hours
from audit.report_log import keep
from audit.verdicts import Status
from schemas.buckets import DEAD_LETTERS, HOUR, Bucket, hour_of
from schemas.registry.contracts import load_contracts
from storage.buckets.manifest_store import shown_receipt
from storage.tables.duckdb_file import DuckDBFile
from tests.model.oracle import report_of
from tests.model.process import LATENESS, Message, Process, Stopping

NINE = datetime(2026, 1, 31, 9, 5, tzinfo=UTC)
LATER = NINE + LATENESS + 2 * HOUR


@pytest.fixture
def tables(tmp_path: Path) -> Iterator[DuckDBFile]:
    tables = DuckDBFile(tmp_path / "tables.duckdb")
    yield tables
    tables.close()


def started(folder: Path, tables: DuckDBFile) -> tuple[Stopping, Process]:
    """A process that serves the type `thing`, and its buckets."""
    contracts = folder / "contracts"
    (contracts / "thing").mkdir(parents=True)
    contract = {"type": "record", "name": "thing", "fields": [{"name": "x", "type": "int"}]}
    (contracts / "thing" / "v1.avsc").write_text(json.dumps(contract))
    store = Stopping(folder / "storage")
    return store, Process(store, tables, load_contracts(contracts), 1)


@pytest.mark.parametrize("lost", [False, True])
def test_an_event_that_came_in_time_and_again_too_late_is_not_missing(tmp_path: Path, tables: DuckDBFile, lost: bool) -> None:
    """A client that retries long after: two messages were published for the hour, and one was received in it."""
    store, process = started(tmp_path, tables)
    said = {"event_type": "thing", "event_id": "a", "received_at": NINE.isoformat()}
    for name, moment in [("first", NINE), *([] if lost else [("again", LATER)])]:
        process.run([Message(b'{"x": 1}', said, name, moment)], LATER + timedelta(hours=2))
    keep(store, [report_of("thing", hour_of(NINE), ["a", "a"])])
    [verdict] = judge_hours(store, tables, [hour_of(NINE)])
    assert verdict.status == (Status.MISSING if lost else Status.COMPLETE), verdict


def test_a_bucket_that_was_deleted_and_rebuilt_is_judged_by_what_was_reported_of_it_since(
    tmp_path: Path, tables: DuckDBFile
) -> None:
    """Its versions begin again with 1, and its counts are others: which of two equal ids came first need not be the same."""
    store, process = started(tmp_path, tables)
    messages = [
        Message(b'{"x": %d}' % x, {"event_type": "thing", "event_id": event_id}, f"m{number}", NINE)
        for number, (event_id, x) in enumerate([("a", 1), ("a", 2), ("a", 2), ("b", 1)])
    ]
    hour = hour_of(NINE)
    both = Bucket("thing", hour), Bucket(DEAD_LETTERS, hour)

    def reported() -> dict[Bucket, int]:
        manifests = [shown_receipt(store, bucket) for bucket in both]
        keep(store, [manifest.report() for manifest in manifests if manifest.version])
        return {manifest.bucket: manifest.version for manifest in manifests}

    for message in messages:
        process.run([message], NINE)
        reported()
    process.run([], LATER)
    keep(store, [report_of("thing", hour, ["a", "a", "a", "b"])])
    before = reported()
    assert [verdict.status for verdict in judge_hours(store, tables, [hour])] == [Status.COMPLETE]

    for bucket in both:
        shutil.rmtree(tmp_path / "storage" / bucket.folder)
    [verdict] = judge_hours(store, tables, [hour])
    assert verdict.status != Status.COMPLETE
    process.forget()
    process.run(messages[::-1], LATER)
    assert all(version < before[bucket] for bucket, version in reported().items())
    [verdict] = judge_hours(store, tables, [hour])
    assert verdict.status == Status.COMPLETE, verdict
