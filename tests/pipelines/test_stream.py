"""The graph as a stream on Prism: the test moves clock and watermark, and Prism fires the panes."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.coders import PickleCoder
from apache_beam.io.gcp.pubsub import PubsubMessage
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineState
from apache_beam.testing import test_stream
from apache_beam.transforms.periodicsequence import PeriodicImpulse, RebaseMode
from apache_beam.utils.timestamp import Timestamp

from pipelines.graph import DATAFLOW_PACE, LOCAL_SHARDS, Pace, Plan, build, local_pace
from schemas.buckets import DEAD_LETTERS, HOUR, Bucket
from schemas.registry.contracts import load_contracts
from schemas.tables import tables_of
from storage.open import open_store, open_tables
from storage.tables.duckdb_file import DuckDBFile
from tests.support.clock import LAST_HOUR
from tests.support.delivery import World, search
from transforms.sweep import transform as sweep
from transforms.windows import LOAD_EVERY, PANE_EVERY

pytestmark = pytest.mark.integration

SECONDS = 60
MONTH = timedelta(days=31)


class Stream:
    """A sequence of events. Each one begins when the runner has no work left from the one before."""

    def __init__(self) -> None:
        self.source = test_stream.TestStream(coder=PickleCoder()).advance_watermark_to(LAST_HOUR.timestamp())

    def publish(self, event_id: str, published: datetime) -> Stream:
        data, attributes = search(event_id)
        moment = Timestamp.of(published.timestamp())
        message = PubsubMessage(data, attributes, f"message-{event_id}", published)
        self.source = self.source.add_elements([beam.window.TimestampedValue(message, moment)])
        return self

    def panes(self) -> Stream:
        """Let a pane's time pass twice: until the files are written, and until they are committed."""
        for _ in range(2):
            self.source = self.source.advance_processing_time(PANE_EVERY.total_seconds() + 1)
        return self

    def end_of_hour(self) -> Stream:
        self.source = self.source.advance_watermark_to((LAST_HOUR + HOUR).timestamp())
        return self

    def seconds(self, seconds: float) -> Stream:
        self.source = self.source.advance_processing_time(seconds)
        return self

    def run(self, world: World, options: PipelineOptions, pace: Pace = DATAFLOW_PACE) -> None:
        """Run the graph until it has consumed everything. At the very end the watermark advances to infinity."""
        plan = Plan(
            source=self.source,
            bounded=False,
            run_started_at=LAST_HOUR,
            contracts=load_contracts(world.contracts),
            store=open_store(str(world.storage)),
            tables=open_tables(str(world.tables)),
            audit_topic=world.audit_topic,
            allowed_lateness=timedelta(days=7),
            horizon=timedelta(days=1),
            shards=LOCAL_SHARDS,
            pace=pace,
        )
        for table in tables_of(plan.contracts).values():
            plan.tables.ensure(table)
        pipeline = beam.Pipeline(options=options)
        build(pipeline, plan)
        # Without a step that pauses, as a real stream's source does, Prism lets steps with timers wait for the watermark.
        _ = pipeline | "Pause" >> PeriodicImpulse(0, 2, fire_interval=1, rebase=RebaseMode.REBASE_ALL)
        try:
            assert pipeline.run().wait_until_finish(SECONDS * 1000) == PipelineState.DONE
        finally:
            DuckDBFile(world.tables).close()


@pytest.fixture(autouse=True)
def end_after_the_last_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    """End the otherwise unbounded sequence of hours, so that the run ends."""
    monkeypatch.setattr(sweep, "PeriodicImpulse", partial(PeriodicImpulse, stop_timestamp=(LAST_HOUR + HOUR).timestamp()))


def versions(world: World, hour: datetime = LAST_HOUR, stream: str = "search_made") -> list[dict[str, Any]]:
    """Return every version of a bucket's manifest, the oldest first."""
    folder = world.storage / Bucket(stream, hour).folder / "_receipts"
    return [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]


def in_table(world: World) -> list[str]:
    return [row[0] for row in world.query("SELECT event_id FROM search_made ORDER BY event_id")]


def test_stream__early_on_time_and_late(world: World, prism_options: PipelineOptions) -> None:
    """An hour is delivered while it lasts, when it is over, and when late events arrive."""
    stream = Stream().publish("early", LAST_HOUR + timedelta(minutes=5)).panes()
    stream.publish("in time", LAST_HOUR + timedelta(minutes=25)).end_of_hour().panes()
    stream.publish("late", LAST_HOUR + timedelta(minutes=45)).panes()
    stream.publish("early", LAST_HOUR + timedelta(minutes=55)).panes()

    stream.run(world, prism_options)

    history = versions(world)
    seen = [(manifest["closed"], manifest["rows"], manifest["late"]) for manifest in history]
    assert list(dict.fromkeys(step for step in seen if step[1])) == [(False, 1, 0), (True, 2, 0), (True, 3, 1)]
    assert history[-1]["counts"] == {"search_made": {"received": 4, "delivered": 3, "duplicate": 1}}
    assert world.manifests("search_made") == {LAST_HOUR: history[-1]}
    assert [row["event_id"] for row in world.rows("search_made")] == in_table(world) == ["early", "in time", "late"]
    assert (world.storage / Bucket("search_made", LAST_HOUR).success_name).exists()


def test_stream__closes_at_the_end_of_the_hour(world: World, prism_options: PipelineOptions) -> None:
    """An hour closes at its end, also without events, and also if early panes have delivered all of them."""
    stream = Stream().publish("early", LAST_HOUR).panes().end_of_hour().panes()
    stream.publish("late", LAST_HOUR).panes().run(world, prism_options)

    history = versions(world)
    closed = next(manifest for manifest in history if manifest["closed"])
    assert (closed["version"] > 1, closed["rows"], closed["late"]) == (True, 1, 0)
    assert (history[-1]["closed_at"], history[-1]["rows"], history[-1]["late"]) == (closed["closed_at"], 2, 1)
    for empty in ("tap", DEAD_LETTERS):
        [manifest] = versions(world, stream=empty)
        assert (manifest["closed"], manifest["rows"]) == (True, 0)
        # Closed at the hour's end, not at the end of the run.
        assert manifest["closed_at"] < history[-1]["commits"][-1]["at"]
        assert (world.storage / Bucket(empty, LAST_HOUR).success_name).exists()


def test_stream__event_a_month_behind_the_watermark(world: World, prism_options: PipelineOptions) -> None:
    Stream().end_of_hour().publish("old", LAST_HOUR - MONTH).panes().run(world, prism_options)

    [row] = world.rows("search_made")
    assert (row["event_id"], row["received_at"], row["skewed_from"]) == ("old", LAST_HOUR - MONTH, None)
    assert in_table(world) == ["old"]


def test_stream__loads_less_often_than_it_commits(world: World, prism_options: PipelineOptions) -> None:
    """A current hour is loaded less often than it is committed, and in full when it is over."""
    flush = timedelta(seconds=30)
    stream = Stream()
    for minute in range(8):
        stream.publish(f"event {minute}", LAST_HOUR + timedelta(minutes=minute))
        stream.seconds(flush.total_seconds() + 1).seconds(2)
    # Both loads are requested and run before the hour is over.
    stream.seconds(LOAD_EVERY.total_seconds() + 1).seconds(2)
    stream.end_of_hour().seconds(2).run(world, prism_options, local_pace(flush))

    assert len([manifest for manifest in versions(world) if manifest["rows"]]) >= 8
    [(loads, rows)] = world.query("SELECT count(*), max(loaded) FROM load_jobs.jobs WHERE table_name = 'search_made'")
    assert (1 <= loads <= 3, rows) == (True, 8)
    assert in_table(world) == [f"event {minute}" for minute in range(8)]
