"""The graph of deliver and backfill, from the source to the reports. The source and the sinks are passed to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineResult

from cli.command import UserError
from pipelines.pubsub_clients import publisher
from schemas.buckets import DEAD_LETTERS
from schemas.envelope import format_time
from schemas.registry.contracts import Contracts
from schemas.row_schemas import dead_letter_schema, row_schema
from schemas.tables import tables_of
from storage.objects.base import ObjectStore
from storage.tables.base import TableStore
from transforms.clocks import Clock, Fixed, utc_now
from transforms.commit.transform import CommitBuckets
from transforms.decode.transform import HOURS, PACKS, Decode
from transforms.dedup.delivered_index import DeliveredIndexes
from transforms.load.transform import LoadTables
from transforms.report import Report
from transforms.sweep.transform import EachNewHour, SweepHours, SweepPeriodically, UnfinishedHours
from transforms.windows import LOAD_EVERY, LONGEST_LIFE, PANE_EVERY, HourlyWindows
from transforms.write.transform import WriteDataFiles

LOCAL_SHARDS = 1
DATAFLOW_SHARDS = 16
"""Data files that a bucket gets per pane, and so the number of workers that can write one busy event type in parallel."""


class SweepScope(Enum):
    """Which buckets a run revisits, besides those of its own events, in order to close and load them."""

    ALL = "all"
    """Buckets of the hours that it sees, and buckets that earlier runs have left open or not loaded."""
    SEEN = "seen"
    """Buckets of the hours that it sees, and of the hours between them that have no events."""
    NONE = "none"


@dataclass(frozen=True)
class Pace:
    """How long the steps of a stream collect before they work."""

    write: timedelta
    """Time from the first waiting event of a shard until the shard writes a data file."""
    commit: timedelta
    """Time from the first waiting data file of a bucket until the bucket's data files are committed."""
    load: timedelta | None = None
    """Time from the first waiting commit of an open bucket until the bucket is loaded. None: it is loaded after each commit."""


DATAFLOW_PACE = Pace(PANE_EVERY, PANE_EVERY)


def local_pace(flush_every: timedelta) -> Pace:
    """Return the pace of a stream on one machine. It has one shard, so a commit does not wait for the files of others.

    Loads are rarer than flushes, because each load reads all files of the bucket again, however many there are.
    """
    return Pace(flush_every, timedelta(seconds=1), LOAD_EVERY)


@dataclass(frozen=True)
class Plan:
    """Source, sinks and settings of the graph."""

    source: beam.PTransform
    """Emits PubsubMessages."""
    bounded: bool
    """Whether the source is bounded: it ends after the messages that were published before the run started."""
    run_started_at: datetime
    contracts: Contracts
    store: ObjectStore
    tables: TableStore
    audit_topic: str
    allowed_lateness: timedelta
    horizon: timedelta
    """The dedup horizon."""
    shards: int
    """Shards of each event type."""
    leased_subscription: str | None = None
    """Subscription whose messages this process has leased, so that the graph has to acknowledge them. None: the runner
    acknowledges them, or they come from an archive."""
    sweep_scope: SweepScope = SweepScope.ALL
    hours_seen: Sequence[datetime] = ()
    """Hours that earlier runs have seen and left to this run to sweep."""
    pace: Pace = DATAFLOW_PACE


def build(pipeline: beam.Pipeline, plan: Plan) -> None:
    """Add all steps from the source to the reports to a pipeline, for any runner."""
    contracts, store, lateness = plan.contracts, plan.store, plan.allowed_lateness
    pace = plan.pace
    write_windows = HourlyWindows(lateness, plan.bounded, pace.write)
    commit_windows = HourlyWindows(lateness, plan.bounded, pace.commit)
    load_windows = HourlyWindows(lateness, plan.bounded, pace.load) if pace.load else None
    # A bounded run has not read messages published after its start, so it closes only hours that were over by then.
    closing_clock: Clock = Fixed(plan.run_started_at) if plan.bounded else utc_now
    delivered = DeliveredIndexes(store, plan.horizon)
    tables = tables_of(contracts)
    streams = list(tables)
    row_schemas = {kind: row_schema(contracts.newest(kind)) for kind in contracts.types} | {DEAD_LETTERS: dead_letter_schema()}

    decoded = pipeline | "Read" >> plan.source | "Decode" >> Decode(contracts, lateness, plan.shards, plan.leased_subscription)
    data_files = decoded[PACKS] | "Write data files" >> WriteDataFiles(
        store, row_schemas, write_windows, delivered, plan.bounded, plan.leased_subscription
    )

    committables = {"Data files": data_files}
    if plan.sweep_scope is not SweepScope.NONE:
        committables["Close checks"] = sweep(pipeline, plan, streams, decoded[HOURS])

    _ = (
        committables
        | "Commit buckets"
        >> CommitBuckets(store, closing_clock, commit_windows, delivered, plan.leased_subscription, plan.bounded)
        | "Load tables" >> LoadTables(plan.tables, tables, store, plan.bounded, load_windows, plan.leased_subscription)
        | "Report counts" >> Report(plan.audit_topic, publisher)
    )


def sweep(pipeline: beam.Pipeline, plan: Plan, streams: Sequence[str], hours_seen: beam.PCollection) -> beam.PCollection:
    """Emit close checks for the buckets of three kinds of hours.

    They are the hours that the run sees, the hours that end while it runs, and the hours that earlier runs have left open or
    not loaded.
    """
    # As far back as any run can have written. A delivered event is not delivered again, so no event would revisit its bucket.
    oldest = plan.run_started_at - plan.allowed_lateness - LONGEST_LIFE
    hours = [hours_seen]
    if plan.hours_seen:
        hours.append(
            pipeline | "Add hours seen before" >> beam.Create([format_time(hour) for hour in plan.hours_seen], reshuffle=False)
        )
    if plan.leased_subscription and not plan.bounded:
        hours.append(
            pipeline
            | "Sweep periodically"
            >> SweepPeriodically(plan.store, streams, oldest, plan.run_started_at, plan.leased_subscription)
        )
    else:
        if plan.sweep_scope is SweepScope.ALL:
            hours.append(pipeline | "Find unfinished hours" >> UnfinishedHours(plan.store, streams, oldest))
        if not plan.bounded:
            hours.append(pipeline | "Emit each new hour" >> EachNewHour(plan.run_started_at))
    return hours | "All hours" >> beam.Flatten() | "Sweep hours" >> SweepHours(streams, plan.bounded)


def launch(options: PipelineOptions, plan: Plan) -> PipelineResult:
    """Start the job without waiting for its end, as the launcher of a flex template requires.

    Raises:
        UserError: Beam refuses the options.
    """
    try:
        pipeline = beam.Pipeline(options=options)
    except ValueError as error:
        # The pipeline has no steps yet, so the cause must be an option.
        raise UserError(" ".join(str(error).split())) from None
    build(pipeline, plan)
    return pipeline.run()
