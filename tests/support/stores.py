"""A delivery into stores that misbehave: its command as users run it, and whether all that was published is there, once."""

from __future__ import annotations

import io
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import fastavro
import pytest

from pipelines import audit, deliver
from pipelines.command import run_main
from schemas.buckets import HOUR
from storage.objects import gcs as cloud_storage
from storage.objects.gcs import CloudStorage
from storage.tables import bigquery as bigquery_tables
from tests.support.bigquery import BigQueryServer
from tests.support.delivery import LAST_HOUR, World, search
from tests.support.gcs import GcsServer
from tests.support.tables import Store, bigquery_store, duckdb_store

HOURS = (LAST_HOUR - HOUR, LAST_HOUR)


@dataclass
class Delivery:
    """Searches that are published, delivered to a pair of stores, and looked for there."""

    world: World
    store: Store
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]
    published: dict[datetime, list[str]] = field(default_factory=lambda: {hour: [] for hour in HOURS})

    def publish(self, *ids: str) -> list[str]:
        """Publishes each in one of two hours by turns, and returns the message ids."""
        messages = []
        for number, one in enumerate(ids):
            hour = HOURS[number % 2]
            self.published[hour].append(one)
            messages.append(search(one, hour + timedelta(minutes=5)))
        return self.world.publish(*messages)

    def flags(self) -> list[str]:
        ours = [flag for flag in self.world.deliver_flags() if not flag.startswith(("--storage", "--tables"))]
        return [*ours, *self._stores()]

    def run(self) -> tuple[int, str]:
        """Runs deliver as its command line does: exit status, and what the error says (empty without one).

        An error begins with `error: ` and tells no stack trace.
        """
        self.monkeypatch.setattr(sys, "argv", ["deliver", *self.flags()])
        self.capsys.readouterr()
        status = run_main(deliver.main)
        self._close()
        told = self.capsys.readouterr().err
        assert "Traceback" not in told
        errors = re.split("^error: ", told, flags=re.MULTILINE)[1:]
        assert len(errors) == (status != 0), told
        return status, errors[0].strip() if status else ""

    def check(self, repeated: bool = False) -> None:
        """Files hold what was published, and so does the table; nothing twice; the counters balance; the audit says so.

        repeated: some messages may have been delivered again by Pub/Sub, or those of a manifest before they were
        acknowledged.
        """
        manifests = self.manifests()
        for hour, ids in self.published.items():
            if not ids:
                continue
            assert self.ids_in_files(manifests[hour]) == sorted(ids)
            assert [row["event_id"] for row in self.store.rows("search_made", hour)] == sorted(ids)
            counts = Counter(manifests[hour]["counts"]["search_made"])
            assert counts["delivered"] == len(ids)
            assert counts["received"] == counts["delivered"] + counts["duplicate"] + counts["dead_letter"]
            assert repeated or counts["duplicate"] == 0
            self.world.report("search_made", hour, ids)
            self.world.report("tap", hour, [])
        assert self.world.left() == 0
        judge = [f"--subscription={self.world.audit_subscription}", f"--verdicts={self.world.verdicts}", *self._stores()]
        try:
            status = audit.main(judge)
            assert status == 0, self.world.verdicts.read_text()
        finally:
            self._close()
        found = json.loads(self.world.verdicts.read_text())
        assert {(row["event_type"], row["status"]) for row in found} == {("search_made", "COMPLETE"), ("tap", "COMPLETE")}

    def manifests(self) -> Mapping[datetime, Any]:
        """What each hour's manifest says."""
        names = [name for name in self.store.objects.list("events/search_made/") if name.endswith("/_RECEIPT.json")]
        found = [json.loads(self.store.objects.read(name)[0]) for name in names]
        return {datetime.fromisoformat(manifest["hour"]): manifest for manifest in found}

    def ids_in_files(self, manifest: Mapping[str, Any]) -> list[str]:
        """Of every row in the files that it lists, in order."""
        folder = f"events/search_made/dt={manifest['hour'][:10]}/hour={manifest['hour'][11:13]}"
        names = [data_file["name"] for commit in manifest["commits"] for data_file in commit["data_files"]]
        files = [io.BytesIO(self.store.objects.read(f"{folder}/{name}")[0]) for name in names]
        return sorted(row["event_id"] for file in files for row in fastavro.reader(file))  # type: ignore[call-overload, index]

    def _stores(self) -> list[str]:
        return [f"--storage={self.store.objects.uri}", f"--tables={self.store.tables.uri}"]

    def _close(self) -> None:
        if hasattr(self.store.tables, "close"):
            self.store.tables.close()


@pytest.fixture
def local(world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Delivery]:
    """Into a directory and a DuckDB file."""
    with duckdb_store(world.folder) as store:
        yield Delivery(world, store, monkeypatch, capsys)


@dataclass
class Cloud(Delivery):
    """Into the stand-ins of Cloud Storage and BigQuery, through their real clients."""

    gcs: GcsServer = field(kw_only=True)
    bigquery: BigQueryServer = field(kw_only=True)

    def be_patient(self, seconds: float) -> None:
        """Short pauses between tries, for so long in all: a test has no two minutes for an outage."""
        quick: dict[str, float] = {"initial": 0.005, "maximum": 0.05}
        patient = cloud_storage.RETRY.with_delay(**quick).with_timeout(seconds)
        self.monkeypatch.setattr(deliver, "open_store", lambda uri: CloudStorage(uri, retry=patient))
        self.monkeypatch.setattr(bigquery_tables, "RETRY", bigquery_tables.RETRY.with_delay(**quick).with_timeout(seconds))


@pytest.fixture
def cloud(world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Cloud]:
    with bigquery_store(monkeypatch) as (store, bigquery, gcs):
        delivery = Cloud(world, store, monkeypatch, capsys, gcs=gcs, bigquery=bigquery)
        monkeypatch.setattr("transforms.load.load.FIRST_PAUSE", 0.01)
        monkeypatch.setattr("transforms.load.load.LONGEST_PAUSE", 0.02)
        delivery.be_patient(20)
        yield delivery
