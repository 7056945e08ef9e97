"""The auditor without a runner: verdicts on hours that deliver's own steps have delivered."""

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
from tests.model.process import LATENESS, KillableDirectory, Message, Process

NINE = datetime(2026, 1, 31, 9, 5, tzinfo=UTC)
LATER = NINE + LATENESS + 2 * HOUR


@pytest.fixture
def tables(tmp_path: Path) -> Iterator[DuckDBFile]:
    tables = DuckDBFile(tmp_path / "tables.duckdb")
    yield tables
    tables.close()


def start(folder: Path, tables: DuckDBFile) -> tuple[KillableDirectory, Process]:
    """Start a process that serves the type `thing`, and return its store too."""
    contracts = folder / "contracts"
    (contracts / "thing").mkdir(parents=True)
    contract = {"type": "record", "name": "thing", "fields": [{"name": "x", "type": "int"}]}
    (contracts / "thing" / "v1.avsc").write_text(json.dumps(contract))
    store = KillableDirectory(folder / "storage")
    return store, Process(store, tables, load_contracts(contracts), 1)


@pytest.mark.parametrize("lost", [False, True])
def test_judge_hours__copy_after_the_allowed_lateness(tmp_path: Path, tables: DuckDBFile, lost: bool) -> None:
    """A client retries long after: two messages are published for the hour, and one of them is delivered to it."""
    store, process = start(tmp_path, tables)
    attributes = {"event_type": "thing", "event_id": "a", "received_at": NINE.isoformat()}
    for name, moment in [("first", NINE), *([] if lost else [("again", LATER)])]:
        process.run([Message(b'{"x": 1}', attributes, name, moment)], LATER + timedelta(hours=2))
    keep(store, [report_of("thing", hour_of(NINE), ["a", "a"])])
    [verdict] = judge_hours(store, tables, [hour_of(NINE)])
    assert verdict.status == (Status.MISSING if lost else Status.COMPLETE), verdict


def test_judge_hours__rebuilt_bucket(tmp_path: Path, tables: DuckDBFile) -> None:
    """A rebuilt bucket is judged by the reports since its deletion.

    Its versions begin again with 1, and its counts may differ: another one of two equal ids may be the delivered one.
    """
    store, process = start(tmp_path, tables)
    messages = [
        Message(b'{"x": %d}' % x, {"event_type": "thing", "event_id": event_id}, f"m{number}", NINE)
        for number, (event_id, x) in enumerate([("a", 1), ("a", 2), ("a", 2), ("b", 1)])
    ]
    hour = hour_of(NINE)
    both = Bucket("thing", hour), Bucket(DEAD_LETTERS, hour)

    def report() -> dict[Bucket, int]:
        manifests = [shown_receipt(store, bucket) for bucket in both]
        keep(store, [manifest.report() for manifest in manifests if manifest.version])
        return {manifest.bucket: manifest.version for manifest in manifests}

    for message in messages:
        process.run([message], NINE)
        report()
    process.run([], LATER)
    keep(store, [report_of("thing", hour, ["a", "a", "a", "b"])])
    before = report()
    assert [verdict.status for verdict in judge_hours(store, tables, [hour])] == [Status.COMPLETE]

    for bucket in both:
        shutil.rmtree(tmp_path / "storage" / bucket.folder)
    [verdict] = judge_hours(store, tables, [hour])
    assert verdict.status != Status.COMPLETE
    process.lose_memory()
    process.run(messages[::-1], LATER)
    assert all(version < before[bucket] for bucket, version in report().items())
    [verdict] = judge_hours(store, tables, [hour])
    assert verdict.status == Status.COMPLETE, verdict
