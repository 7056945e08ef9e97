"""A delivery into unreliable stores: deliver's command line, and a check that every event is delivered exactly once."""

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
from pipelines.command import run_command
from schemas.buckets import HOUR
from storage.objects import gcs as cloud_storage
from storage.objects.gcs import CloudStorage
from storage.tables import bigquery as bigquery_tables
from tests.support.bigquery import BigQueryServer
from tests.support.clock import LAST_HOUR, PATIENCE
from tests.support.delivery import World, search
from tests.support.gcs import GcsServer
from tests.support.tables import Store, bigquery_store, duckdb_store

HOURS = (LAST_HOUR - HOUR, LAST_HOUR)


@dataclass
class Delivery:
    """Searches that are published, delivered to a pair of stores, and looked up there."""

    world: World
    store: Store
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]
    published: dict[datetime, list[str]] = field(default_factory=lambda: {hour: [] for hour in HOURS})

    def publish(self, *ids: str) -> list[str]:
        """Publish the ids alternately in two hours and return the message ids."""
        messages = []
        for number, event_id in enumerate(ids):
            hour = HOURS[number % 2]
            self.published[hour].append(event_id)
            messages.append(search(event_id, hour + timedelta(minutes=5)))
        return self.world.publish(*messages)

    def flags(self) -> list[str]:
        own = [flag for flag in self.world.deliver_flags() if not flag.startswith(("--storage", "--tables"))]
        return [*own, *self._stores()]

    def run(self) -> tuple[int, str]:
        """Run deliver as its command line does.

        Returns:
            (exit status, error message or ""). The message has no `error: ` prefix, and there is no stack trace.
        """
        self.monkeypatch.setattr(sys, "argv", ["deliver", *self.flags()])
        self.capsys.readouterr()
        status = run_command(deliver.main)
        self._close()
        stderr = self.capsys.readouterr().err
        assert "Traceback" not in stderr
        errors = re.split("^error: ", stderr, flags=re.MULTILINE)[1:]
        assert len(errors) == (status != 0), stderr
        return status, errors[0].strip() if status else ""

    def check(self, repeated: bool = False) -> None:
        """Check that files and table hold each published event once, the counters balance, and the verdicts are COMPLETE.

        Args:
            repeated: Pub/Sub may have redelivered messages, for example those of a committed manifest that were not
                acknowledged yet
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
        assert self.world.undelivered() == 0
        audit_flags = [f"--subscription={self.world.audit_subscription}", f"--verdicts={self.world.verdicts}", *self._stores()]
        try:
            status = audit.main(audit_flags)
            assert status == 0, self.world.verdicts.read_text()
        finally:
            self._close()
        verdicts = json.loads(self.world.verdicts.read_text())
        assert {(row["event_type"], row["status"]) for row in verdicts} == {("search_made", "COMPLETE"), ("tap", "COMPLETE")}

    def manifests(self) -> Mapping[datetime, Any]:
        """Return each hour's manifest as JSON."""
        names = [name for name in self.store.objects.list("events/search_made/") if name.endswith("/_RECEIPT.json")]
        manifests = [json.loads(self.store.objects.read(name)[0]) for name in names]
        return {datetime.fromisoformat(manifest["hour"]): manifest for manifest in manifests}

    def ids_in_files(self, manifest: Mapping[str, Any]) -> list[str]:
        """Return the sorted event ids of all rows in the files that the manifest lists."""
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
    """Yield a delivery into a directory and a DuckDB file."""
    with duckdb_store(world.folder) as store:
        yield Delivery(world, store, monkeypatch, capsys)


@dataclass
class Cloud(Delivery):
    """A delivery into the stand-ins of Cloud Storage and BigQuery, through their real clients."""

    gcs: GcsServer = field(kw_only=True)
    bigquery: BigQueryServer = field(kw_only=True)

    def set_retry_timeout(self, seconds: float) -> None:
        """Set short pauses between attempts, and this many seconds of retrying in all: a test can't wait two minutes."""
        quick: dict[str, float] = {"initial": 0.005, "maximum": 0.05}
        patient = cloud_storage.RETRY.with_delay(**quick).with_timeout(seconds)
        self.monkeypatch.setattr(deliver, "open_store", lambda uri: CloudStorage(uri, retry=patient))
        self.monkeypatch.setattr(bigquery_tables, "RETRY", bigquery_tables.RETRY.with_delay(**quick).with_timeout(seconds))


@pytest.fixture
def cloud(world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Cloud]:
    """Yield a delivery into the stand-ins of Cloud Storage and BigQuery."""
    with bigquery_store(monkeypatch) as (store, bigquery, gcs):
        delivery = Cloud(world, store, monkeypatch, capsys, gcs=gcs, bigquery=bigquery)
        monkeypatch.setattr("transforms.load.load.FIRST_PAUSE", 0.01)
        monkeypatch.setattr("transforms.load.load.LONGEST_PAUSE", 0.02)
        delivery.set_retry_timeout(PATIENCE)
        yield delivery
