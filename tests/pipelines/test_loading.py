"""What becomes of partitions that can't be loaded, of columns that change, and of tables that lose what they held."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import duckdb
import pytest

from pipelines import reload
from pipelines.command import UserError
from schemas.audit_reports import DeliveredReport, parse_report
from schemas.buckets import DEAD_LETTERS, Bucket
from storage.tables.base import TableStoreError
from storage.tables.duckdb_file import DuckDBFile
from tests.support.delivery import LAST_HOUR, World, search
from tests.support.pubsub import pull_now, subscriber

pytestmark = pytest.mark.slow

IN_HOUR = LAST_HOUR + timedelta(minutes=5)
HOUR_BEFORE = LAST_HOUR - timedelta(hours=1)


def in_table(world: World, table: str = "search_made") -> list[str]:
    return [row[0] for row in world.query(f"SELECT event_id FROM {table} ORDER BY event_id")]


def take_away(world: World, subscription: str) -> list[bytes]:
    """What a subscription has to give, which it then has no more."""
    with subscriber(world.address) as client:
        found = pull_now(client, subscription)
        if found:
            client.acknowledge(subscription=subscription, ack_ids=[one.ack_id for one in found])
    return [one.message.data for one in found]


def reported(world: World) -> set[tuple[str, datetime]]:
    """Stream and hour of the reports that have come since it was last asked for."""
    reports = map(parse_report, take_away(world, world.audit_subscription))
    return {(one.bucket.stream, one.bucket.hour) for one in reports if isinstance(one, DeliveredReport)}


def run_reload(world: World, hours: Sequence[Any] = (LAST_HOUR, LAST_HOUR), *more: str) -> int:
    span = "..".join(f"{hour:%Y-%m-%dT%H}" for hour in hours)
    stores = [f"--storage={world.storage}", f"--tables={world.tables}", f"--contracts={world.contracts}"]
    try:
        return reload.main([*stores, f"--hours={span}", *more])
    finally:
        DuckDBFile(world.tables).close()


def write_version(world: World, version: int, *dropped: str, **changed: str) -> None:
    """Writes a version of search_made: the first one's fields without the dropped, with other types for the changed."""
    schema = json.loads((world.contracts / "search_made/v1.avsc").read_text())
    kept = [field for field in schema["fields"] if field["name"] not in dropped]
    schema["fields"] = [{**field, "type": changed.get(field["name"], field["type"])} for field in kept]
    (world.contracts / f"search_made/v{version}.avsc").write_text(json.dumps(schema))


def test_a_partition_that_cannot_be_loaded_stops_no_other_and_the_next_run_loads_it_though_no_event_comes(world):
    world.publish(search("old", IN_HOUR))
    world.deliver()
    reported(world)
    folder = world.storage / Bucket("search_made", LAST_HOUR).folder
    [data_file] = folder.glob("part-*.avro")
    data_file.rename(world.folder / "away")
    tap = {"event_type": "tap", "event_id": "t", "received_at": IN_HOUR.isoformat()}
    world.publish(search("new", IN_HOUR), search("other", HOUR_BEFORE), (b'{"x": 1}', tap))

    with pytest.raises(TableStoreError, match=rf"1 partition could not be loaded; all others were.*\n.*{data_file.name}"):
        world.deliver()
    assert in_table(world) == ["old", "other"]
    assert in_table(world, "tap") == ["t"]
    loaded = reported(world)
    assert loaded >= {("search_made", HOUR_BEFORE), ("tap", LAST_HOUR)}
    assert ("search_made", LAST_HOUR) not in loaded
    assert take_away(world, world.subscription) == [], "what is in a manifest needs no message to be loaded"

    (world.folder / "away").rename(data_file)
    world.deliver()
    assert in_table(world) == ["new", "old", "other"]
    assert ("search_made", LAST_HOUR) in reported(world)


def test_a_column_whose_type_has_changed_ends_the_run_before_anything_is_taken(world):
    world.publish(search("a", IN_HOUR))
    world.deliver()
    (world.contracts / "search_made/v1.avsc").write_text(
        (world.contracts / "search_made/v1.avsc").read_text().replace('"int"', '"string"')
    )
    world.publish(search("b", IN_HOUR))
    with pytest.raises(TableStoreError, match=r"search_made: column .?results.* type can't change"):
        world.deliver()
    assert world.manifests("search_made")[LAST_HOUR]["version"] == 1
    assert world.left() == 1


def test_every_type_has_its_table_though_no_event_came(world):
    world.deliver()
    for table in ("search_made", "tap", DEAD_LETTERS):
        assert world.query(f"SELECT count(*) FROM {table}") == [(0,)]


def test_files_with_a_field_that_a_later_version_dropped_go_into_a_new_table(world):
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


def test_reload_brings_back_what_tables_have_lost_in_the_hours_that_are_named(world, capsys):
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
    assert capsys.readouterr().out == "1 partitions loaded, 1 rows\n"
    for _ in range(2):
        assert run_reload(world, (HOUR_BEFORE, LAST_HOUR)) == 0
        assert capsys.readouterr().out == "6 partitions loaded, 3 rows\n"
    assert in_table(world) == ["a", "b"]
    assert world.query(f"SELECT count(*) FROM {DEAD_LETTERS}") == [(1,)]


def test_reload_goes_on_after_a_partition_that_cannot_be_loaded_and_names_it(world):
    world.publish(search("a", IN_HOUR), search("b", HOUR_BEFORE))
    world.deliver()
    for data_file in (world.storage / Bucket("search_made", HOUR_BEFORE).folder).glob("part-*.avro"):
        data_file.write_bytes(data_file.read_bytes()[:-20])
    with duckdb.connect(world.tables) as db:
        db.execute("DELETE FROM search_made")
    with pytest.raises(TableStoreError, match=rf"1 partition could not be loaded.*\n.*search_made, {HOUR_BEFORE:%Y-%m-%d %H}h"):
        run_reload(world, (HOUR_BEFORE, LAST_HOUR))
    assert in_table(world) == ["a"]


def test_reload_of_a_type_without_a_contract_is_an_error_that_names_those_there_are(world):
    with pytest.raises(UserError, match=r"--type=taps is unknown. What to do: pass one of search_made, tap, dead_letters"):
        run_reload(world, (LAST_HOUR, LAST_HOUR), "--type=taps")
