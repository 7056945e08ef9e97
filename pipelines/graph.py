"""The graph: the whole way of an event, whatever runs it, and what is plugged into it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineResult

from pipelines.command import UserError
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
"""Files that a bucket gets at each pane, and so the workers that can write one busy event type at a time."""


class SweepScope(Enum):
    """Which buckets a run sweeps, to close them or to finish what was left undone, besides those that its events go to."""

    ALL = "all: of the hours that it sees, and of those that earlier runs have left open or not loaded"
    SEEN = "those of the hours that it sees, and of the silent ones between"
    NONE = "none"


@dataclass(frozen=True)
class Pace:
    """How long after the first event that waits for it a stream writes a file, commits files, and loads a bucket that is open;
    where `load` is None, it is loaded at each commit."""

    write: timedelta
    commit: timedelta
    load: timedelta | None = None


DATAFLOW_PACE = Pace(PANE_EVERY, PANE_EVERY)


def local_pace(flush_every: timedelta) -> Pace:
    """One shard's file need not wait for others. A load takes all the files of a bucket again: the more there are, the rarer
    it has to be than a flush."""
    return Pace(flush_every, timedelta(seconds=1), LOAD_EVERY)


@dataclass(frozen=True)
class Plan:
    """What is plugged into the graph.

    source: gives PubsubMessages; ends: whether it does so by itself, with what was there when the run started; leased: the
    subscription whose messages this process holds, to be acknowledged by the graph; hours_seen: hours that runs before this
    one have seen, and left to it to sweep; pace: how often a stream does what.
    """

    source: beam.PTransform
    ends: bool
    run_started_at: datetime
    contracts: Contracts
    store: ObjectStore
    tables: TableStore
    audit_topic: str
    allowed_lateness: timedelta
    horizon: timedelta
    shards: int
    leased: str | None = None
    sweep_scope: SweepScope = SweepScope.ALL
    hours_seen: Sequence[datetime] = ()
    pace: Pace = DATAFLOW_PACE


def build(pipeline: beam.Pipeline, plan: Plan) -> None:
    """The whole way of an event, whatever runs it."""
    contracts, store, lateness = plan.contracts, plan.store, plan.allowed_lateness
    pace = plan.pace
    write_windows = HourlyWindows(lateness, plan.ends, pace.write)
    commit_windows = HourlyWindows(lateness, plan.ends, pace.commit)
    load_windows = HourlyWindows(lateness, plan.ends, pace.load) if pace.load else None
    # A run that ends has not seen what came after its start, so it closes nothing that was not over by then.
    closing_clock: Clock = Fixed(plan.run_started_at) if plan.ends else utc_now
    delivered = DeliveredIndexes(store, plan.horizon)
    tables = tables_of(contracts)
    streams = list(tables)
    row_schemas = {kind: row_schema(contracts.newest(kind)) for kind in contracts.types} | {DEAD_LETTERS: dead_letter_schema()}

    decoded = pipeline | "Read" >> plan.source | "Decode" >> Decode(contracts, lateness, plan.shards, plan.leased)
    data_files = decoded[PACKS] | "Write data files" >> WriteDataFiles(
        store, row_schemas, write_windows, delivered, plan.ends, plan.leased
    )

    committables = {"Data files": data_files}
    if plan.sweep_scope is not SweepScope.NONE:
        committables["Close checks"] = sweep(pipeline, plan, streams, decoded[HOURS])

    _ = (
        committables
        | "Commit buckets" >> CommitBuckets(store, closing_clock, commit_windows, delivered, plan.leased, plan.ends)
        | "Load tables" >> LoadTables(plan.tables, tables, store, plan.ends, load_windows, plan.leased)
        | "Report counts" >> Report(plan.audit_topic, publisher)
    )


def sweep(pipeline: beam.Pipeline, plan: Plan, streams: Sequence[str], hours_seen: beam.PCollection) -> beam.PCollection:
    """Sweeps the buckets of hours: those seen, those that pass, and those that earlier runs have left unfinished."""
    # As far back as any run can have written: what is in a manifest is not delivered again, so nobody else would look there.
    oldest = plan.run_started_at - plan.allowed_lateness - LONGEST_LIFE
    hours = [hours_seen]
    if plan.hours_seen:
        hours.append(
            pipeline | "Add hours seen before" >> beam.Create([format_time(hour) for hour in plan.hours_seen], reshuffle=False)
        )
    if plan.leased and not plan.ends:
        hours.append(
            pipeline | "Sweep periodically" >> SweepPeriodically(plan.store, streams, oldest, plan.run_started_at, plan.leased)
        )
    else:
        if plan.sweep_scope is SweepScope.ALL:
            hours.append(pipeline | "Find unfinished hours" >> UnfinishedHours(plan.store, streams, oldest))
        if not plan.ends:
            hours.append(pipeline | "Emit each new hour" >> EachNewHour(plan.run_started_at))
    return hours | "All hours" >> beam.Flatten() | "Sweep hours" >> SweepHours(streams, plan.ends)


def launch(options: PipelineOptions, plan: Plan) -> PipelineResult:
    """Starts the job and does not wait for its end, as a flex template's launcher must not."""
    try:
        pipeline = beam.Pipeline(options=options)
    except ValueError as error:
        # Nothing is built yet: it is the options that Beam does not like.
        raise UserError(" ".join(str(error).split())) from None
    build(pipeline, plan)
    return pipeline.run()
