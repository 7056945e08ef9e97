"""deliver: takes events from a Pub/Sub subscription, once each, to hourly buckets of files and table partitions.

On Dataflow it runs until it is drained. On one machine it takes what was published before it started, and stops; a message is
acknowledged when its event is in a receipt. An hour that is not over yet is written, but not closed.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from pathlib import Path

import apache_beam as beam
from apache_beam.io.gcp.pubsub import ReadFromPubSub
from apache_beam.options.pipeline_options import DebugOptions, PipelineOptions
from apache_beam.runners.runner import PipelineResult
from google.protobuf.json_format import MessageToJson

from pipelines.clients import publisher, subscriber
from pipelines.flags import UserError, duration, horizon, resource, run_main
from pipelines.progress import each
from pipelines.runners import DATAFLOW, add_runner, beam_options, is_dry_run, parse
from schemas.buckets import DEAD_LETTERS
from schemas.contracts import DEFAULT_FOLDER, Contracts, load_contracts
from schemas.rows import dead_letter_schema, row_schema
from schemas.tables import tables_of
from transforms.buckets import Buckets
from transforms.buckets.opening import open_buckets
from transforms.clocks import Clock, Fixed, utc_now
from transforms.closing import CommitBuckets, LoadTables
from transforms.delivered import forget
from transforms.delivering import HOURS, PACKS, Receive, WriteParts
from transforms.leases import LEASE_SECONDS, Leases
from transforms.looks import FindOpenHours, LookAtHours, PassingHours
from transforms.pubsub import check_subscription, check_topic
from transforms.reporting import Report
from transforms.source import PubSubSource
from transforms.tables import Tables
from transforms.tables.opening import open_tables
from transforms.windows import LONGEST_LIFE, Hourly

LOCAL_SHARDS = 1
DATAFLOW_SHARDS = 16
"""Files that a bucket gets at each pane, and so the workers that can write one busy event type at a time."""

_log = logging.getLogger(__name__)


class Looks(Enum):
    """Which buckets a run looks at, to close them or to finish what was left undone, besides those that its events go to."""

    ALL = "all: of the hours that it meets, and of those that earlier runs have left open or not loaded"
    MET = "those of the hours that it meets, and of the silent ones between"
    NONE = "none"


@dataclass(frozen=True)
class Plan:
    """What is plugged into the graph.

    source: gives PubsubMessages; ends: whether it does so by itself, with what was there when the run started; leased: the
    subscription whose messages this process holds, to be acknowledged by the graph.
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


def build(pipeline: beam.Pipeline, plan: Plan) -> None:
    """The whole way of an event, whatever runs it."""
    contracts, buckets, lateness = plan.contracts, plan.buckets, plan.allowed_lateness
    forget(buckets)
    hourly = Hourly(lateness, plan.ends)
    # A run that ends has not seen what came after its start, so it closes nothing that was not over by then.
    closable: Clock = Fixed(plan.started) if plan.ends else utc_now
    tables = tables_of(contracts)
    streams = list(tables)
    row_schemas = {kind: row_schema(contracts.newest(kind)) for kind in contracts.types} | {DEAD_LETTERS: dead_letter_schema()}

    received = pipeline | "Read" >> plan.source | "Receive" >> Receive(contracts, lateness, plan.shards, plan.leased)
    parts = received[PACKS] | "Write parts" >> WriteParts(buckets, row_schemas, hourly, plan.horizon, plan.ends)

    contributions = {"Parts": parts}
    if plan.looks is not Looks.NONE:
        hours = [received[HOURS] if plan.ends else pipeline | "Passing hours" >> PassingHours(plan.started)]
        if plan.looks is Looks.ALL:
            # As far back as any run can have written: what is in a receipt is not delivered again, so nobody else would look.
            oldest = plan.started - lateness - LONGEST_LIFE
            hours.append(pipeline | "Find open hours" >> FindOpenHours(buckets, streams, oldest))
        contributions["Looks"] = hours | "All hours" >> beam.Flatten() | "Look at hours" >> LookAtHours(streams, plan.ends)

    _ = (
        contributions
        | "Commit buckets" >> CommitBuckets(buckets, closable, hourly, plan.horizon, plan.leased, plan.ends)
        | "Load tables" >> LoadTables(plan.tables, tables, buckets, plan.ends)
        | "Report counts" >> Report(plan.audit_topic, publisher)
    )


def parser() -> argparse.ArgumentParser:
    """The command line. Beam's own flags come beside these."""
    flags = argparse.ArgumentParser(prog="python -m pipelines.deliver", description=__doc__, allow_abbrev=False)
    flags.add_argument("--subscription", required=True, type=resource("subscriptions"), help="where the events come from")
    add_stores(flags)
    add_runner(flags)
    return flags


def add_stores(flags: argparse.ArgumentParser) -> None:
    """The flags that say what the graph is built with, wherever its events come from."""
    flags.add_argument("--buckets", required=True, help="where the hourly files go: a folder, or gs://bucket[/prefix]")
    flags.add_argument("--tables", required=True, help="where the tables are: FILE.duckdb, or bigquery://project.dataset")
    flags.add_argument("--audit_topic", required=True, type=resource("topics"), help="where the counts go")
    flags.add_argument(
        "--contracts", type=Path, default=DEFAULT_FOLDER, help="contracts that this run serves (default: the shipped)"
    )
    flags.add_argument(
        "--allowed_lateness",
        type=duration,
        default=timedelta(days=7),
        help="an event that comes later than this after its hour goes into the hour of its publishing (default: 7d)",
    )
    flags.add_argument(
        "--dedup_horizon",
        type=horizon,
        default=timedelta(hours=24),
        help="an event that was delivered is not delivered again for so long, by its type and id (default: 24h; at least 1h)",
    )


def main(argv: Sequence[str]) -> int:
    """Checks everything that can be checked before it starts, then runs. Raises what `run_main` tells the user.

    A dry run needs no network, and checks nothing that does.
    """
    flags, rest = parse(parser(), argv)
    contracts = load_contracts(flags.contracts)
    buckets, tables = open_buckets(flags.buckets), open_tables(flags.tables)
    options, started = beam_options(flags.runner, rest), utc_now()
    ends = flags.runner != DATAFLOW
    if not ends and not (buckets.uri.startswith("gs://") and tables.uri.startswith("bigquery://")):
        raise UserError(
            f"{DATAFLOW}'s workers see no file of this machine: give --buckets=gs://... and --tables=bigquery://..."
        )
    if not is_dry_run(options):
        check(buckets, tables, flags.subscription, flags.audit_topic)
        each("tables checked", tables.ensure, list(tables_of(contracts).values()))
    plan = Plan(
        source=beam.io.Read(PubSubSource(flags.subscription, started))
        if ends
        else ReadFromPubSub(subscription=flags.subscription, with_attributes=True),
        ends=ends,
        started=started,
        contracts=contracts,
        buckets=buckets,
        tables=tables,
        audit_topic=flags.audit_topic,
        allowed_lateness=flags.allowed_lateness,
        horizon=flags.dedup_horizon,
        shards=LOCAL_SHARDS if ends else DATAFLOW_SHARDS,
        leased=flags.subscription if ends else None,
    )
    if ends:
        take(options, plan, flags.subscription)
    elif is_dry_run(options):
        rehearse(options, plan)
    else:
        launch(options, plan)
    return 0


def check(buckets: Buckets, tables: Tables, subscription: str, audit_topic: str) -> None:
    """Raises what `run_main` tells the user, unless stores, subscription and topic can be used."""
    buckets.check_writable()
    tables.check_writable(buckets)
    with subscriber() as client:
        topic = check_subscription(client, subscription)
    if topic == audit_topic:
        raise UserError(f"{audit_topic} is the topic of {subscription}: the counts would come in as events. Name another one.")
    with publisher() as client:
        check_topic(client, audit_topic)


def launch(options: PipelineOptions, plan: Plan) -> PipelineResult:
    """Starts the job and does not wait for its end, as a flex template's launcher must not."""
    try:
        pipeline = beam.Pipeline(options=options)
    except ValueError as error:
        # Nothing is built yet: it is the options that Beam does not like.
        raise UserError(" ".join(str(error).split())) from None
    build(pipeline, plan)
    return pipeline.run()


def rehearse(options: PipelineOptions, plan: Plan) -> None:
    """Builds Dataflow's job and starts nothing. Beam itself writes no file then: the graph goes to --dataflow_job_file."""
    job = launch(options, plan).job
    steps = len(job.proto_pipeline.components.transforms)
    told = (
        f"dry run: job {job.proto.name} of {steps} steps was built and not started; stores, topics and rights were not checked"
    )
    file = options.view_as(DebugOptions).dataflow_job_file
    if file:
        try:
            Path(file).write_text(MessageToJson(job.proto_pipeline))
        except OSError as error:
            raise UserError(f"--dataflow_job_file={file} can't be written: {error.strerror}") from None
        told += f"; its graph is in {file}"
    print(told)


def take(options: PipelineOptions, plan: Plan, subscription: str) -> int:
    """Runs until the source ends, and returns how many messages were acknowledged.

    If the run fails, those whose events are in no receipt yet go back to Pub/Sub.
    """
    begin = time.monotonic()
    with subscriber() as client, Leases(subscription, client) as leases:
        launch(options, plan).wait_until_finish()
    seconds, taken = time.monotonic() - begin, leases.acknowledged
    _log.info("%s: %d messages delivered and acknowledged in %.1f s", subscription, taken, seconds)
    if not taken:
        _log.info("What another run holds, or one that was killed, comes back within %d s after its end", LEASE_SECONDS)
    return taken


if __name__ == "__main__":
    sys.exit(run_main(main))
