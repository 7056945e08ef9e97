"""Partitions that can't be loaded, columns that change, and tables that have lost rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import duckdb
import pytest

from cli.command import UserError
from pipelines import reload
from schemas.audit_reports import DeliveredReport, parse_report
from schemas.buckets import DEAD_LETTERS, Bucket
from storage.tables.base import TableStoreError
from storage.tables.duckdb_file import DuckDBFile
from tests.support.clock import LAST_HOUR
from tests.support.delivery import World, search
from tests.support.pubsub import pull_now, subscriber

pytestmark = pytest.mark.integration

IN_HOUR = LAST_HOUR + timedelta(minutes=5)
HOUR_BEFORE = LAST_HOUR - timedelta(hours=1)


def in_table(world: World, table: str = "search_made") -> list[str]:
    return [row[0] for row in world.query(f"SELECT event_id FROM {table} ORDER BY event_id")]


def acknowledge_all(world: World, subscription: str) -> list[bytes]:
    """Acknowledge all messages of a subscription and return their data."""
    with subscriber(world.address) as client:
        found = pull_now(client, subscription)
        if found:
            client.acknowledge(subscription=subscription, ack_ids=[received.ack_id for received in found])
    return [received.message.data for received in found]


def new_reports(world: World) -> set[tuple[str, datetime]]:
    """Return (stream, hour) of all delivered reports since the last call."""
    reports = map(parse_report, acknowledge_all(world, world.audit_subscription))
    return {(report.bucket.stream, report.bucket.hour) for report in reports if isinstance(report, DeliveredReport)}


def run_reload(world: World, hours: Sequence[Any] = (LAST_HOUR, LAST_HOUR), *more: str) -> int:
    span = "..".join(f"{hour:%Y-%m-%dT%H}" for hour in hours)
    stores = [f"--storage={world.storage}", f"--tables={world.tables}", f"--contracts={world.contracts}"]
    try:
        return reload.main([*stores, f"--hours={span}", *more])
    finally:
        DuckDBFile(world.tables).close()


def write_version(world: World, version: int, *dropped: str, **changed: str) -> None:
    """Write a version of search_made: version 1 without the dropped fields, and with changed types."""
    schema = json.loads((world.contracts / "search_made/v1.avsc").read_text())
    kept = [field for field in schema["fields"] if field["name"] not in dropped]
    schema["fields"] = [{**field, "type": changed.get(field["name"], field["type"])} for field in kept]
    (world.contracts / f"search_made/v{version}.avsc").write_text(json.dumps(schema))


def test_deliver__partition_that_fails_to_load(world):
    """A partition that can't be loaded blocks no other, and the next run loads it even without new events."""
    world.publish(search("old", IN_HOUR))
    world.deliver()
    new_reports(world)
    folder = world.storage / Bucket("search_made", LAST_HOUR).folder
    [data_file] = folder.glob("part-*.avro")
    data_file.rename(world.folder / "away")
    tap = {"event_type": "tap", "event_id": "t", "received_at": IN_HOUR.isoformat()}
    world.publish(search("new", IN_HOUR), search("other", HOUR_BEFORE), (b'{"x": 1}', tap))

    with pytest.raises(TableStoreError, match=rf"1 partition could not be loaded; all others were.*\n.*{data_file.name}"):
        world.deliver()
    assert in_table(world) == ["old", "other"]
    assert in_table(world, "tap") == ["t"]
    loaded = new_reports(world)
    assert loaded >= {("search_made", HOUR_BEFORE), ("tap", LAST_HOUR)}
    assert ("search_made", LAST_HOUR) not in loaded
    assert acknowledge_all(world, world.subscription) == [], "committed files need no message to be loaded"

    (world.folder / "away").rename(data_file)
    world.deliver()
    assert in_table(world) == ["new", "old", "other"]
    assert ("search_made", LAST_HOUR) in new_reports(world)


def test_deliver__column_type_changed(world):
    """A changed column type ends the run before any message is pulled."""
    world.publish(search("a", IN_HOUR))
    world.deliver()
    (world.contracts / "search_made/v1.avsc").write_text(
        (world.contracts / "search_made/v1.avsc").read_text().replace('"int"', '"string"')
    )
    world.publish(search("b", IN_HOUR))
    with pytest.raises(TableStoreError, match=r"search_made: column .?results.* type can't change"):
        world.deliver()
    assert world.manifests("search_made")[LAST_HOUR]["version"] == 1
    assert world.undelivered() == 1


def test_deliver__creates_all_tables(world):
    world.deliver()
    for table in ("search_made", "tap", DEAD_LETTERS):
        assert world.query(f"SELECT count(*) FROM {table}") == [(0,)]


def test_deliver__dropped_field_in_a_new_table(world):
    """Files with a field that a later version dropped are loaded into a new table."""
    world.publish((b'{"words": "w", "results": 1, "language": "pl"}', search("a", IN_HOUR)[1]))
    world.deliver()
    write_version(world, 2, "language")
    world.tables.unlink()
    world.publish(search("b", IN_HOUR))
    world.deliver()
    assert world.query("SELECT event_id, schema_version, language FROM search_made ORDER BY 1") == [
        ("a", 1, "pl"),
        ("b", 2, None),
    ]


def test_reload__restores_lost_rows(world, capsys):
    """A reload restores lost rows and tables in the given hours."""
    world.publish(search("a", IN_HOUR), search("b", HOUR_BEFORE), search("c", HOUR_BEFORE - timedelta(hours=1)))
    world.publish((b"broken", {"event_type": "search_made", "received_at": IN_HOUR.isoformat()}))
    world.deliver()
    with duckdb.connect(world.tables) as db:
        db.execute("DELETE FROM search_made")
        db.execute(f"DROP TABLE {DEAD_LETTERS}")
    world.deliver()
    assert in_table(world) == []

    assert run_reload(world, (LAST_HOUR, LAST_HOUR), "--type=search_made") == 0
    assert in_table(world) == ["a"]
    assert capsys.readouterr().out == "1 partition loaded, 1 row\n"
    for _ in range(2):
        assert run_reload(world, (HOUR_BEFORE, LAST_HOUR)) == 0
        assert capsys.readouterr().out == "6 partitions loaded, 3 rows\n"
    assert in_table(world) == ["a", "b"]
    assert world.query(f"SELECT count(*) FROM {DEAD_LETTERS}") == [(1,)]


def test_reload__partition_that_fails_to_load(world):
    """A reload names a partition that can't be loaded, and loads the others."""
    world.publish(search("a", IN_HOUR), search("b", HOUR_BEFORE))
    world.deliver()
    for data_file in (world.storage / Bucket("search_made", HOUR_BEFORE).folder).glob("part-*.avro"):
        data_file.write_bytes(data_file.read_bytes()[:-20])
    with duckdb.connect(world.tables) as db:
        db.execute("DELETE FROM search_made")
    hour = f"the hour {HOUR_BEFORE:%Y-%m-%dT%H} of table search_made"
    with pytest.raises(TableStoreError, match=rf"1 partition could not be loaded.*\n.*can't load {hour}"):
        run_reload(world, (HOUR_BEFORE, LAST_HOUR))
    assert in_table(world) == ["a"]


def test_reload__type_without_contract(world):
    """A reload of a type without a contract fails and names the existing types."""
    with pytest.raises(UserError, match=r"--type=taps is unknown. What to do: pass one of search_made, tap, dead_letters"):
        run_reload(world, (LAST_HOUR, LAST_HOUR), "--type=taps")
