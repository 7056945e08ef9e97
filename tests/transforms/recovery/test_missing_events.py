"""The archive's messages that are missing, with deliver's dedup horizon to the microsecond."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from apache_beam.io.gcp.pubsub import PubsubMessage

from schemas.buckets import HOUR
from schemas.registry.contracts import Contracts
from storage.tables.duckdb_file import DuckDBFile
from tests.model.process import HORIZON, LATENESS, KillableDirectory, Process
from tests.support.contracts import contract_of, field
from transforms.dedup.delivered_index import DeliveredIndexes
from transforms.recovery.archive import Wanted
from transforms.recovery.missing_events import missing

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def tap(message_id: str, published: datetime) -> PubsubMessage:
    return PubsubMessage(b'{"x": 1}', {"event_type": "thing", "event_id": "a"}, message_id, published)


def test_missing__horizon(tmp_path: Path) -> None:
    """A copy that arrived after the dedup horizon is missing; one that arrived within it is not."""
    store = KillableDirectory(tmp_path / "storage")
    contract = contract_of(field("x", "long"))
    contracts = Contracts({"thing": {None: contract, "1": contract}})
    process = Process(store, DuckDBFile(tmp_path / "tables.duckdb"), contracts, shards=1)
    first = tap("1", NOON + timedelta(minutes=30))
    process.run([first], NOON + HOUR)
    wanted = Wanted(NOON, NOON + 3 * HOUR, LATENESS)
    for minutes, expected in ((HORIZON / timedelta(minutes=1) - 1, set()), (HORIZON / timedelta(minutes=1), {("thing", "a")})):
        again = tap("2", first.publish_time + timedelta(minutes=minutes))
        assert missing(store, [again], wanted, DeliveredIndexes(store, HORIZON)) == expected
