"""The metrics of whole runs, compared with published messages and stored rows, which are counted without them."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.io.gcp.pubsub import PubsubMessage
from apache_beam.runners.runner import PipelineResult

from pipelines.graph import Plan, SweepScope, launch
from pipelines.runners import LOCAL, beam_options
from schemas.buckets import DEAD_LETTERS, HOUR, Bucket
from schemas.fingerprints import Tally
from schemas.registry.contracts import load_contracts
from schemas.shards import Shard
from schemas.tables import Table, tables_of
from storage.buckets.committable import Committable, DataFile
from storage.buckets.manifest import Manifest
from storage.objects.base import Damaged, Stored
from storage.objects.local import Directory
from storage.tables.base import LoadError
from storage.tables.duckdb_file import DuckDBFile
from tests.support.clock import BEGIN, LAST_HOUR, PATIENCE
from tests.support.delivery import World, search
from tests.support.pubsub import pull_now, subscriber
from transforms.commit import commit as commits
from transforms.commit.transform import _Commit
from transforms.dedup.delivered_index import DeliveredIndexes
from transforms.load.transform import _Load
from transforms.metrics import METRICS, NAMESPACE, Kind, Metric
from transforms.pubsub.leases import Leases
from transforms.recovery.archive_source import ReadBatch

pytestmark = pytest.mark.integration

EARLIER = LAST_HOUR - HOUR
HORIZON = timedelta(days=1)
TABLE = Table("thing", (), "received_at", "event_id")
DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"


def metrics_of(result: PipelineResult) -> dict[str, Any]:
    """Return the committed value of each of our metrics by name: a sum over all steps, or a distribution's result."""
    answer = result.metrics().query()
    values: dict[str, Any] = {}
    for counter in answer["counters"]:
        if counter.key.metric.namespace == NAMESPACE:
            values[counter.key.metric.name] = values.get(counter.key.metric.name, 0) + counter.committed
    for distribution in answer["distributions"]:
        if distribution.key.metric.namespace == NAMESPACE:
            values[distribution.key.metric.name] = distribution.committed
    return values


class Run:
    """Deliver on FnApiRunner, from messages with chosen publish times."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._published = 0
        self.contracts = load_contracts(world.contracts)
        self.store = Directory(world.storage)
        self.tables = DuckDBFile(world.tables)
        for table in tables_of(self.contracts).values():
            self.tables.ensure(table)

    def message(self, data: bytes, attributes: Mapping[str, str], published: datetime) -> PubsubMessage:
        self._published += 1
        return PubsubMessage(data, dict(attributes), f"message-{self._published}", published)

    def deliver(self, messages: list[PubsubMessage], started_at: datetime) -> dict[str, Any]:
        plan = Plan(
            source=ReadBatch(deque(messages)),
            bounded=True,
            run_started_at=started_at,
            contracts=self.contracts,
            store=self.store,
            tables=self.tables,
            audit_topic=self._world.audit_topic,
            allowed_lateness=timedelta(days=7),
            horizon=HORIZON,
            shards=1,
            sweep_scope=SweepScope.SEEN,
        )
        result = launch(beam_options(LOCAL, []), plan)
        result.wait_until_finish()
        return metrics_of(result)

    def files(self) -> list[Path]:
        return sorted(self.store_folder.rglob("*.avro"))

    @property
    def store_folder(self) -> Path:
        return Path(self.store.uri)


@pytest.fixture
def run(world: World) -> Run:
    return Run(world)


def of_each_outcome(run: Run) -> list[PubsubMessage]:
    """Make 60 events to deliver, 4 of them skewed; 7 duplicates; 5 messages of an unknown type, and 2 that are not JSON."""
    earlier, last = EARLIER + timedelta(minutes=1), LAST_HOUR + timedelta(minutes=1)
    good = [run.message(*search(f"a{number}"), earlier) for number in range(40)]
    good += [run.message(*search(f"b{number}"), last) for number in range(16)]
    skewed = [run.message(*search(f"c{number}", received_at=EARLIER - timedelta(days=9)), last) for number in range(4)]
    duplicates = [run.message(*search(f"a{number}"), earlier) for number in range(7)]
    unknown = [run.message(b"{}", {"event_type": "nothing", "event_id": str(number)}, earlier) for number in range(5)]
    broken = [run.message(b"{", search(f"d{number}")[1], last) for number in range(2)]
    return [*good, *skewed, *duplicates, *unknown, *broken]


def test_metrics__equal_what_was_published(run: Run, world: World) -> None:
    values = run.deliver(of_each_outcome(run), started_at=BEGIN)
    assert values["messages_received"] == 74
    assert values["events_delivered"] == 60
    assert values["events_duplicate"] == 7
    assert values["dead_letters"] == 7
    assert values["events_skewed"] == 4
    assert values["events_late"] == 0

    # Three streams in two hours; each closes at its first commit, and search_made and dead letters have rows in both.
    assert (values["buckets_closed"], values["close_delay"].count) == (6, 6)
    since = (BEGIN - LAST_HOUR - HOUR).total_seconds()
    assert since <= values["close_delay"].min < since + PATIENCE
    assert since <= values["close_delay"].max - HOUR.total_seconds() < since + PATIENCE
    assert (values["partitions_loaded"], values["load_time"].count, values["rows_loaded"]) == (4, 4, 67)
    with subscriber(world.address) as client:
        assert values["reports_published"] == len(pull_now(client, world.audit_subscription))
    run.tables.close()
    assert world.query("SELECT count(*) FROM search_made") == [(60,)]
    assert world.query(f"SELECT count(*) FROM {DEAD_LETTERS}") == [(7,)]

    assert "commit_conflicts" not in values
    assert not {"buckets_skipped", "loads_failed"} & values.keys()


def test_metrics__conflicts_are_dead_letters(run: Run) -> None:
    """The events' ids were delivered with another payload: some in an earlier run, some in this one."""
    run.deliver([run.message(*search("a"), EARLIER)], started_at=EARLIER)
    other_payload = json.dumps({"words": "others", "results": 0}).encode()
    messages = [run.message(*search("b"), EARLIER)]
    messages += [run.message(other_payload, search(event_id)[1], EARLIER) for event_id in ("a", "b")]
    values = run.deliver(messages, started_at=EARLIER)
    assert (values["messages_received"], values["events_delivered"], values["dead_letters"]) == (3, 1, 2)


def test_metrics__files_are_those_in_the_store(run: Run) -> None:
    messages = [run.message(*search(f"a{number}"), EARLIER + timedelta(seconds=number)) for number in range(50)]
    messages += [run.message(b"{}", {"event_type": "nothing", "event_id": "x"}, LAST_HOUR)]
    values = run.deliver(messages, started_at=BEGIN)
    assert values["data_files_written"] == len(run.files()) == 2
    assert values["bytes_written"] == sum(file.stat().st_size for file in run.files())
    assert values["commits"] == 2


def test_metrics__a_second_run_counts_its_own(run: Run) -> None:
    first = [run.message(*search(f"a{number}"), EARLIER) for number in range(9)]
    run.deliver(first, started_at=BEGIN)
    late = [run.message(*search(f"late{number}"), EARLIER) for number in range(4)]
    values = run.deliver([*first, *late], started_at=BEGIN)
    assert (values["messages_received"], values["events_duplicate"], values["events_delivered"]) == (13, 9, 4)
    assert values["events_late"] == 4
    assert "buckets_closed" not in values
    assert (values["partitions_loaded"], values["rows_loaded"]) == (1, 13)


def test_metrics__a_lost_race_is_a_conflict(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each lost race of a commit counts as a conflict.

    The step counts them in its threads, so this also tests that metrics of threads are collected.
    """
    created, losses = commits._created, [True, True, False]

    def lose(*args: Any, **kwargs: Any) -> bool:
        return not (losses and losses.pop(0)) and created(*args, **kwargs)

    monkeypatch.setattr(commits, "_created", lose)
    values = run.deliver([run.message(*search("a"), EARLIER)], started_at=EARLIER)
    assert (values["commit_conflicts"], values["commits"], values["events_delivered"]) == (2, 1, 1)


class NoClient:
    """A client that accepts the release of leases and nothing else."""

    def modify_ack_deadline(self, **_: Any) -> None:
        pass


class BrokenTables(DuckDBFile):
    """A table store whose loads fail."""

    def load(self, *_: Any) -> int:
        raise LoadError("broken")


class BrokenStore(Directory):
    """A store in which every create finds a damaged object."""

    def create(self, name: str, data: bytes) -> Stored:
        raise Damaged(f"{name} is broken")


def test_metrics__a_stream_counts_failures(tmp_path: Path) -> None:
    """A stream on one machine skips failures and counts them, and its bundles succeed."""
    subscription, bucket = "projects/p/subscriptions/metrics", Bucket("thing", EARLIER)
    store, tables = BrokenStore(tmp_path), BrokenTables(tmp_path / "tables.duckdb")
    commit = _Commit(store, lambda: EARLIER, DeliveredIndexes(store, HORIZON), subscription, bounded=False)
    load = _Load(tables, {"thing": TABLE}, store, bounded=False, leased_subscription=subscription)
    committables = [(bucket.key, (Committable("work", {"thing": {}}, packs=("pack",)).to_json(), False))] * 3
    data_file = DataFile("a.avro", Shard(0, 1), 1, 1, 1, Tally.of_ids(["a"]))
    manifest = Manifest(bucket).next(Committable("work", data_files=(data_file,)), EARLIER, close=False)
    with Leases(subscription, NoClient()) as leases:
        pipeline = beam.Pipeline(options=beam_options(LOCAL, []))
        _ = pipeline | "Committables" >> beam.Create(committables) | "Commit" >> beam.ParDo(commit)
        _ = pipeline | "Manifests" >> beam.Create([manifest] * 2) | "Load" >> beam.ParDo(load)
        values = metrics_of(pipeline.run())
        assert len(leases.failures.unresolved()) == 2
    assert (values["buckets_skipped"], values["loads_failed"]) == (3, 2)
    assert not {"commits", "partitions_loaded"} & values.keys()


def documented() -> str:
    rows = [f"| `{metric.name}` | {metric.kind.value} | {metric.unit} | {metric.description} |" for metric in METRICS]
    return "\n".join(["| name | kind | unit | meaning |", "| --- | --- | --- | --- |", *rows])


def test_metrics__are_documented() -> None:
    assert documented() in DOCUMENT.read_text(), f"docs/metrics.md needs this table:\n{documented()}"


def test_metrics__have_names_of_their_own() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS) > 10
    assert all(isinstance(metric, Metric) and isinstance(metric.kind, Kind) for metric in METRICS)
