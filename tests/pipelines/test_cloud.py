"""Deliver and audit with Cloud Storage and BigQuery: the real clients against strict stand-ins."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from pipelines import audit, deliver
from schemas.buckets import Bucket
from tests.support.clock import LAST_HOUR
from tests.support.delivery import World, search
from tests.support.tables import bigquery_store

pytestmark = pytest.mark.integration

IN_HOUR = LAST_HOUR + timedelta(minutes=5)
BROKEN = (b"{", {"event_type": "search_made", "event_id": "broken", "received_at": IN_HOUR.isoformat()})


def test_deliver__gcs_and_bigquery(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events are delivered once to Cloud Storage and BigQuery, and the verdict is COMPLETE."""
    with bigquery_store(monkeypatch) as (store, _, gcs):
        stores = ["--storage=gs://bucket-of-events/data", "--tables=bigquery://project-1.events"]
        subscription = [f"--subscription={world.subscription}", f"--contracts={world.contracts}"]
        flags = [*stores, *subscription, f"--audit_topic={world.audit_topic}"]
        world.publish(search("a", IN_HOUR), search("b", IN_HOUR), search("a", IN_HOUR), BROKEN)
        assert deliver.main(flags) == 0
        world.publish(search("b", IN_HOUR), search("late", IN_HOUR))
        assert deliver.main(flags) == 0

        folder = f"data/{Bucket('search_made', LAST_HOUR).folder}"
        manifest = json.loads(gcs.read("bucket-of-events", f"{folder}/_RECEIPT.json"))
        assert (manifest["version"], manifest["rows"], manifest["late"], manifest["closed"]) == (2, 3, 1, True)
        assert manifest["counts"] == {"search_made": {"received": 5, "delivered": 3, "duplicate": 2}}
        listed = {f"{folder}/{data_file['name']}" for commit in manifest["commits"] for data_file in commit["data_files"]}
        in_folder = gcs.list("bucket-of-events", f"{folder}/")
        assert {name for name in in_folder if name.endswith(".avro")} == listed
        assert f"{folder}/_SUCCESS" in in_folder
        assert [row["event_id"] for row in store.rows("search_made", LAST_HOUR)] == ["a", "b", "late"]
        assert [row["reason"] for row in store.rows("dead_letters", LAST_HOUR)] == ["not_json"]

        world.report("search_made", LAST_HOUR, ["a", "a", "b", "b", "late", "broken"])
        world.report("tap", LAST_HOUR, [])
        audit_flags = [*stores, f"--subscription={world.audit_subscription}", f"--verdicts={world.verdicts}"]
        assert audit.main(audit_flags) == 0
        found = {row["event_type"]: row for row in json.loads(world.verdicts.read_text())}
        assert {event_type: row["status"] for event_type, row in found.items()} == {
            "search_made": "COMPLETE",
            "tap": "COMPLETE",
        }
        assert found["search_made"]["in_table"] == 3
