"""A whole delivery for tests: topics on the project's broker, stores in a folder, and the pipelines' own command lines."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import fastavro
import pytest

from pipelines import audit, deliver
from schemas.audit_reports import PublishedReport
from schemas.buckets import DEAD_LETTERS, Bucket
from schemas.fingerprints import Tally
from schemas.registry.contracts import DEFAULT_FOLDER
from storage.tables.duckdb_file import DuckDBFile
from tests.support.clock import PATIENCE
from tests.support.pubsub import answer_soon, make_subscription, make_topic, publisher, pull_now, subscriber

LONG_AGO = "--allowed_lateness=20000d"

FLIGHTS = Path(__file__).parents[1] / "data" / "flights.ndjson.gz"
FLIGHT_TYPES = ("flight_arrived", "flight_cancelled", "flight_departed", "weather_observed")

SEARCH: Mapping[str, Any] = {
    "type": "record",
    "name": "search_made",
    "fields": [
        {"name": "words", "type": "string"},
        {"name": "results", "type": "int"},
        {"name": "language", "type": ["null", "string"], "default": None},
    ],
}
"""A small contract. The `tap` contract lies next to it; no event of it is published unless a test does so."""
TAP: Mapping[str, Any] = {"type": "record", "name": "tap", "fields": [{"name": "x", "type": "long"}]}


@dataclass
class World:
    """Topics and stores of one test."""

    folder: Path
    address: str
    topic: str
    subscription: str
    audit_topic: str
    audit_subscription: str
    contracts: Path

    @property
    def storage(self) -> Path:
        return self.folder / "storage"

    @property
    def tables(self) -> Path:
        return self.folder / "tables.duckdb"

    @property
    def verdicts(self) -> Path:
        return self.folder / "verdicts.json"

    def publish(self, *messages: tuple[bytes, dict[str, str]]) -> list[str]:
        """Publish data with attributes and return the message ids."""
        with publisher(self.address) as client:
            futures = [client.publish(self.topic, data, **attributes) for data, attributes in messages]
            return [future.result(timeout=PATIENCE) for future in futures]

    def report(self, event_type: str, hour: datetime, ids: Iterable[str], number: int = 1, reporter: str = "test") -> None:
        """Report to the audit topic, as a publisher does, that these ids were published."""
        ids = list(ids)
        name = f"{reporter}/{event_type}/{hour:%Y%m%d%H}/{number}"
        report = PublishedReport(name, reporter, event_type, hour, Tally.of_ids(ids), Tally.of_ids(set(ids)))
        with publisher(self.address) as client:
            client.publish(self.audit_topic, report.to_json(), report="published", report_id=name).result(timeout=PATIENCE)

    def deliver(self, *more: str) -> int:
        """Run deliver in this process, as its command line does, and return the exit status."""
        try:
            return deliver.main([*self.deliver_flags(), *more])
        finally:
            DuckDBFile(self.tables).close()

    def deliver_flags(self) -> list[str]:
        return [
            f"--subscription={self.subscription}",
            f"--storage={self.storage}",
            f"--tables={self.tables}",
            f"--audit_topic={self.audit_topic}",
            f"--contracts={self.contracts}",
        ]

    def audit(self, *more: str) -> int:
        """Run the audit in this process, as its command line does, and return the exit status."""
        stores = [f"--storage={self.storage}", f"--tables={self.tables}", f"--verdicts={self.verdicts}"]
        try:
            return audit.main([f"--subscription={self.audit_subscription}", *stores, *more])
        finally:
            DuckDBFile(self.tables).close()

    def rows(self, stream: str) -> list[dict[str, Any]]:
        """Return every row in the files that the stream's manifests list, ordered by id."""
        key = "message_id" if stream == DEAD_LETTERS else "event_id"
        found: list[Any] = []
        for manifest in self.manifests(stream).values():
            for commit in manifest["commits"]:
                for data_file in commit["data_files"]:
                    with (self.storage / Bucket(stream, _hour(manifest)).folder / data_file["name"]).open("rb") as file:
                        found += list(fastavro.reader(file))
        return sorted(found, key=lambda row: row[key])

    def manifests(self, stream: str) -> dict[datetime, dict[str, Any]]:
        """Return each hour's `_RECEIPT.json` as JSON."""
        folder = self.storage / (DEAD_LETTERS if stream == DEAD_LETTERS else f"events/{stream}")
        found = [json.loads(file.read_text()) for file in folder.glob("dt=*/hour=*/_RECEIPT.json")]
        return {_hour(manifest): manifest for manifest in found}

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Run a query on the DuckDB file and return its rows."""
        with duckdb.connect(self.tables, read_only=True) as db:
            db.execute("SET TimeZone = 'UTC'")
            return db.execute(sql).fetchall()

    def undelivered(self) -> int:
        """Return the number of messages that the subscription would still deliver."""
        with subscriber(self.address) as client:
            return len(pull_now(client, self.subscription))


def make_world(folder: Path, address: str, contracts: Mapping[str, Mapping[str, Any]]) -> World:
    """Create topics and subscriptions, and write these contracts, each as version 1."""
    topic, audit_topic = make_topic(address), make_topic(address)
    for name, schema in contracts.items():
        path = folder / "contracts" / name / "v1.avsc"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(schema))
    subscriptions = make_subscription(address, topic), make_subscription(address, audit_topic)
    return World(folder, address, topic, subscriptions[0], audit_topic, subscriptions[1], folder / "contracts")


@pytest.fixture
def world(tmp_path: Path, broker_address: str, monkeypatch: pytest.MonkeyPatch) -> World:
    """A world with the event types `search_made` and `tap`."""
    use_broker(monkeypatch, broker_address)
    return make_world(tmp_path, broker_address, {"search_made": SEARCH, "tap": TAP})


@pytest.fixture
def flights_world(tmp_path: Path, broker_address: str, monkeypatch: pytest.MonkeyPatch) -> World:
    """A world with the event types of the flights file."""
    use_broker(monkeypatch, broker_address)
    contracts = {event_type: json.loads((DEFAULT_FOLDER / event_type / "v1.avsc").read_text()) for event_type in FLIGHT_TYPES}
    return make_world(tmp_path, broker_address, contracts)


def use_broker(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """Point the clients of this process to the broker, which runs in this process too."""
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", address)
    answer_soon(monkeypatch)


def search(event_id: str, received_at: datetime | None = None, **attributes: str) -> tuple[bytes, dict[str, str]]:
    """Build a valid message."""
    stamp = {"received_at": received_at.isoformat()} if received_at else {}
    data = json.dumps({"words": f"words of {event_id}", "results": len(event_id)}).encode()
    return data, {"event_type": "search_made", "event_id": event_id, **stamp, **attributes}


def flights() -> list[tuple[bytes, dict[str, str]]]:
    """Read the flights file and return its events as messages."""
    with gzip.open(FLIGHTS) as lines:
        events = [json.loads(line) for line in lines]
    names = ("event_type", "event_id", "received_at")
    return [(json.dumps(event["payload"]).encode(), {name: event[name] for name in names}) for event in events]


def flights_by_hour() -> Counter[tuple[str, str]]:
    """Count the file's events by type and by the text of received_at up to the hour. Uses none of the project's code."""
    with gzip.open(FLIGHTS) as lines:
        return Counter((event["event_type"], event["received_at"][:13]) for event in map(json.loads, lines))


def _hour(manifest: Mapping[str, Any]) -> datetime:
    return datetime.fromisoformat(manifest["hour"])
