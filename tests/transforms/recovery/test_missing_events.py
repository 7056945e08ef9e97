"""The archive's messages that are missing, with deliver's dedup horizon to the microsecond."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import pytest
from apache_beam.io.gcp.pubsub import PubsubMessage

from schemas.buckets import HOUR, Bucket
from schemas.registry.contracts import Contracts
from storage.buckets.manifest_store import latest_manifest
from storage.tables.duckdb_file import DuckDBFile
from tests.model.process import HORIZON, LATENESS, KillableDirectory, Killed, Process
from tests.support.contracts import contract_of, field
from transforms.dedup.delivered_index import DeliveredIndexes
from transforms.recovery.archive import Wanted
from transforms.recovery.missing_events import missing

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def tap(message_id: str, published: datetime) -> PubsubMessage:
    return PubsubMessage(b'{"x": 1}', {"event_type": "thing", "event_id": "a"}, message_id, published)


def process_on(store: KillableDirectory, folder: Path) -> Process:
    contract = contract_of(field("x", "long"))
    contracts = Contracts({"thing": {None: contract, "1": contract}})
    return Process(store, DuckDBFile(folder / "tables.duckdb"), contracts, shards=1)


@pytest.mark.parametrize("after", [False, True])
def test_missing__killed_deliver(tmp_path: Path, after: bool) -> None:
    """An event is missing until its commit, wherever deliver was killed before its files were in place."""
    message = tap("1", NOON + timedelta(minutes=30))
    wanted = Wanted(NOON, NOON + HOUR, LATENESS)
    outcomes = []
    for number in count(1):
        folder = tmp_path / str(number)
        store = KillableDirectory(folder / "storage")
        process = process_on(store, folder)
        store.writes_left, store.after = number, after
        try:
            process.run([message], NOON + HOUR)
        except Killed:
            pass
        else:
            break
        store.writes_left = None
        found = missing(store, [message], wanted, DeliveredIndexes(store, HORIZON))
        # Only now: a commit that the killed process had written ahead is finished by the next reader.
        is_committed = bool(latest_manifest(store, Bucket("thing", NOON)).data_files)
        outcomes.append(is_committed)
        assert found == (set() if is_committed else {("thing", "a")}), number
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {False, True}


def test_missing__horizon(tmp_path: Path) -> None:
    """A copy that arrived after the dedup horizon is missing; one that arrived within it is not."""
    store = KillableDirectory(tmp_path / "storage")
    process = process_on(store, tmp_path)
    first = tap("1", NOON + timedelta(minutes=30))
    process.run([first], NOON + HOUR)
    wanted = Wanted(NOON, NOON + 3 * HOUR, LATENESS)
    for minutes, expected in ((HORIZON / timedelta(minutes=1) - 1, set()), (HORIZON / timedelta(minutes=1), {("thing", "a")})):
        again = tap("2", first.publish_time + timedelta(minutes=minutes))
        assert missing(store, [again], wanted, DeliveredIndexes(store, HORIZON)) == expected
