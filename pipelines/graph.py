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
from storage.objects.base import Buckets
from storage.tables.base import Tables
from transforms.clocks import Clock, Fixed, utc_now
from transforms.commit.transform import CommitBuckets
from transforms.decode.transform import HOURS, PACKS, Receive
from transforms.dedup.delivered_index import forget
from transforms.load.transform import LoadTables
from transforms.report import Report
from transforms.sweep.transform import FindOpenHours, LookAtHours, PassingHours, WatchHours
from transforms.windows import LOAD_EVERY, LONGEST_LIFE, PANE_EVERY, Hourly
from transforms.write.transform import WriteParts

LOCAL_SHARDS = 1
DATAFLOW_SHARDS = 16
"""Files that a bucket gets at each pane, and so the workers that can write one busy event type at a time."""


class Looks(Enum):
    """Which buckets a run looks at, to close them or to finish what was left undone, besides those that its events go to."""

    ALL = "all: of the hours that it meets, and of those that earlier runs have left open or not loaded"
    MET = "those of the hours that it meets, and of the silent ones between"
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
    subscription whose messages this process holds, to be acknowledged by the graph; met: hours that runs before this one have
    met, and left to it to look at; pace: how often a stream does what.
    """

    source: beam.PTransform
    ends: bool
    started: datetime
    contracts: Contracts
    buckets: Buckets
    tables: Tables
    audit_topic: str
    allowed_lateness: timedelta
    horizon: timedelta
    shards: int
    leased: str | None = None
    looks: Looks = Looks.ALL
    met: Sequence[datetime] = ()
    pace: Pace = DATAFLOW_PACE


def build(pipeline: beam.Pipeline, plan: Plan) -> None:
    """The whole way of an event, whatever runs it."""
    contracts, buckets, lateness = plan.contracts, plan.buckets, plan.allowed_lateness
    forget(buckets)
    pace = plan.pace
    to_write, to_commit = Hourly(lateness, plan.ends, pace.write), Hourly(lateness, plan.ends, pace.commit)
    to_load = Hourly(lateness, plan.ends, pace.load) if pace.load else None
    # A run that ends has not seen what came after its start, so it closes nothing that was not over by then.
    closable: Clock = Fixed(plan.started) if plan.ends else utc_now
    tables = tables_of(contracts)
    streams = list(tables)
    row_schemas = {kind: row_schema(contracts.newest(kind)) for kind in contracts.types} | {DEAD_LETTERS: dead_letter_schema()}

    received = pipeline | "Read" >> plan.source | "Receive" >> Receive(contracts, lateness, plan.shards, plan.leased)
    parts = received[PACKS] | "Write parts" >> WriteParts(buckets, row_schemas, to_write, plan.horizon, plan.ends, plan.leased)

    contributions = {"Parts": parts}
    if plan.looks is not Looks.NONE:
        contributions["Looks"] = look(pipeline, plan, streams, received[HOURS])

    _ = (
        contributions
        | "Commit buckets" >> CommitBuckets(buckets, closable, to_commit, plan.horizon, plan.leased, plan.ends)
        | "Load tables" >> LoadTables(plan.tables, tables, buckets, plan.ends, to_load, plan.leased)
        | "Report counts" >> Report(plan.audit_topic, publisher)
    )


def look(pipeline: beam.Pipeline, plan: Plan, streams: Sequence[str], met: beam.PCollection) -> beam.PCollection:
    """Looks at the buckets of hours: those met, those that pass, and those in which earlier runs have left something to do."""
    # As far back as any run can have written: what is in a receipt is not delivered again, so nobody else would look there.
    oldest = plan.started - plan.allowed_lateness - LONGEST_LIFE
    hours = [met]
    if plan.met:
        hours.append(pipeline | "Met before" >> beam.Create([format_time(hour) for hour in plan.met], reshuffle=False))
    if plan.leased and not plan.ends:
        hours.append(pipeline | "Watch hours" >> WatchHours(plan.buckets, streams, oldest, plan.started, plan.leased))
    else:
        if plan.looks is Looks.ALL:
            hours.append(pipeline | "Find open hours" >> FindOpenHours(plan.buckets, streams, oldest))
        if not plan.ends:
            hours.append(pipeline | "Passing hours" >> PassingHours(plan.started))
    return hours | "All hours" >> beam.Flatten() | "Look at hours" >> LookAtHours(streams, plan.ends)


def launch(options: PipelineOptions, plan: Plan) -> PipelineResult:
    """Starts the job and does not wait for its end, as a flex template's launcher must not."""
    try:
        pipeline = beam.Pipeline(options=options)
    except ValueError as error:
        # Nothing is built yet: it is the options that Beam does not like.
        raise UserError(" ".join(str(error).split())) from None
    build(pipeline, plan)
    return pipeline.run()
