"""deliver: takes events from a Pub/Sub subscription, once each, to hourly buckets of files and table partitions.

On Dataflow it runs until it is drained. On one machine it takes what was published before it started, and stops; with
--mode=stream it goes on, on Beam's Prism, until SIGTERM or SIGINT; either way a message is acknowledged when its event is in a
manifest. An hour that is not over yet is written, but not closed.
"""

from __future__ import annotations

if __name__ == "__main__":
    from cli.interrupts import end_in_one_line

    end_in_one_line()

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import apache_beam as beam
import grpc
from apache_beam.io.gcp.pubsub import ReadFromPubSub
from apache_beam.options.pipeline_options import DebugOptions, PipelineOptions
from google.protobuf.json_format import MessageToJson
from rich.console import Console

from cli.help import ParagraphFormatter
from cli.progress import status_line
from pipelines.arguments import add_stores, duration, resource
from pipelines.command import UserError, on_shutdown, run_main
from pipelines.graph import DATAFLOW_PACE, DATAFLOW_SHARDS, LOCAL_SHARDS, Plan, launch, local_pace
from pipelines.memory import give_back_freed
from pipelines.prism import running_prism, what_failed
from pipelines.progress import map_with_progress
from pipelines.pubsub_clients import publisher, subscriber
from pipelines.runners import DATAFLOW, LOCAL, PRISM, add_runner, beam_options, is_dry_run, parse
from schemas.envelope import DEDUP_KEY
from schemas.errors import with_list
from schemas.registry.contracts import load_contracts
from schemas.tables import tables_of
from storage.objects.base import ObjectStore
from storage.open import open_store, open_tables
from storage.tables.base import TableStore
from transforms.clocks import utc_now
from transforms.pubsub.leases import LEASE_SECONDS, NACK_DELAY_SECONDS, Leases
from transforms.pubsub.retry import check_subscription, check_topic
from transforms.pubsub.source import PubSubSource

AVAILABLE_NOW, STREAMING = "available_now", "stream"
FLUSH_EVERY = timedelta(seconds=60)
STATUS_EVERY = timedelta(minutes=1)
"""How often a stream whose standard error is no terminal says how far it is."""

_log = logging.getLogger(__name__)


def parser() -> argparse.ArgumentParser:
    """The command line. Beam's own flags come beside these."""
    flags = argparse.ArgumentParser(
        prog="python -m pipelines.deliver", description=__doc__, formatter_class=ParagraphFormatter, allow_abbrev=False
    )
    flags.add_argument("--subscription", required=True, type=resource("subscriptions"), help="where the events come from")
    add_stores(flags)
    flags.add_argument(
        "--mode",
        choices=[AVAILABLE_NOW, STREAMING],
        help=f"{AVAILABLE_NOW} (the default on one machine) takes what is there and stops; {STREAMING} goes on until SIGTERM, "
        f"on Beam's Prism (--prism_location=FILE, or downloaded); {DATAFLOW} knows no other",
    )
    flags.add_argument(
        "--flush_every",
        type=duration,
        help=f"how long a stream on one machine collects before it writes and acknowledges (default: "
        f"{FLUSH_EVERY.total_seconds():.0f}s; at least 1s). Each time makes a file, and a version of the manifest that lists "
        "all of the hour's files: far below the default is for trying things out",
    )
    add_runner(flags)
    return flags


def main(argv: Sequence[str]) -> int:
    """Checks everything that can be checked before it starts, then runs. Raises what `run_main` tells the user.

    A dry run needs no network, and checks nothing that does.
    """
    flags, rest = parse(parser(), argv)
    contracts = load_contracts(flags.contracts)
    store, tables = open_store(flags.storage), open_tables(flags.tables)
    runner = PRISM if flags.runner == LOCAL and flags.mode == STREAMING else flags.runner
    check_mode(runner, flags)
    options, run_started_at = beam_options(runner, rest), utc_now()
    if runner == DATAFLOW and not (store.uri.startswith("gs://") and tables.uri.startswith("bigquery://")):
        raise UserError(
            f"{DATAFLOW}'s workers see no file of this machine: give --storage=gs://... and --tables=bigquery://..."
        )
    if not is_dry_run(options):
        check(store, tables, flags.subscription, flags.audit_topic)
        map_with_progress("tables checked", tables.ensure, list(tables_of(contracts).values()))
    plan = Plan(
        source=ReadFromPubSub(subscription=flags.subscription, id_label=DEDUP_KEY, with_attributes=True)
        if runner == DATAFLOW
        else beam.io.Read(PubSubSource(flags.subscription, run_started_at if runner == LOCAL else None)),
        ends=runner == LOCAL,
        run_started_at=run_started_at,
        contracts=contracts,
        store=store,
        tables=tables,
        audit_topic=flags.audit_topic,
        allowed_lateness=flags.allowed_lateness,
        horizon=flags.dedup_horizon,
        shards=DATAFLOW_SHARDS if runner == DATAFLOW else LOCAL_SHARDS,
        leased=None if runner == DATAFLOW else flags.subscription,
        pace=local_pace(flags.flush_every or FLUSH_EVERY) if runner == PRISM else DATAFLOW_PACE,
    )
    if runner == LOCAL:
        run_once(options, plan, flags.subscription)
    elif runner == PRISM:
        run_streaming(options, plan, flags.subscription)
    elif is_dry_run(options):
        dry_run(options, plan)
    else:
        launch(options, plan)
    return 0


def check_mode(runner: str, flags: argparse.Namespace) -> None:
    """Raises UserError for flags that do not go with the runner."""
    if runner == DATAFLOW and flags.mode == AVAILABLE_NOW:
        raise UserError(f"{DATAFLOW} runs until it is drained: leave --mode={AVAILABLE_NOW} out")
    if flags.flush_every is not None:
        if runner != PRISM:
            raise UserError(f"--flush_every is for a stream on one machine: add --mode={STREAMING}, or leave it out")
        if not flags.flush_every:
            raise UserError("--flush_every is at least 1s")


def check(store: ObjectStore, tables: TableStore, subscription: str, audit_topic: str) -> None:
    """Raises what `run_main` tells the user, unless stores, subscription and topic can be used."""
    store.check_writable()
    tables.check_writable(store)
    with subscriber() as client:
        topic = check_subscription(client, subscription)
    if topic == audit_topic:
        raise UserError(f"{audit_topic} is the topic of {subscription}: the counts would come in as events. Name another one.")
    with publisher() as client:
        check_topic(client, audit_topic)


def dry_run(options: PipelineOptions, plan: Plan) -> None:
    """Builds Dataflow's job and starts nothing. Beam itself writes no file then: the graph goes to --dataflow_job_file."""
    job = launch(options, plan).job
    steps = len(job.proto_pipeline.components.transforms)
    summary = (
        f"dry run: job {job.proto.name} of {steps} steps was built and not started; stores, topics and rights were not checked"
    )
    file = options.view_as(DebugOptions).dataflow_job_file
    if file:
        try:
            Path(file).write_text(MessageToJson(job.proto_pipeline))
        except OSError as error:
            raise UserError(f"--dataflow_job_file={file} can't be written: {error.strerror}") from None
        summary += f"; its graph is in {file}"
    print(summary)


def run_once(options: PipelineOptions, plan: Plan, subscription: str) -> int:
    """Runs until the source ends, and returns how many messages were acknowledged.

    If the run fails, those whose events are in no manifest yet go back to Pub/Sub.
    """
    begin = time.monotonic()
    with subscriber() as client, Leases(subscription, client) as leases, status_line(lambda: progress_of(leases)):
        launch(options, plan).wait_until_finish()
    seconds, taken = time.monotonic() - begin, leases.acknowledged
    _log.info("%s messages delivered and acknowledged in %.1f s", f"{taken:,}", seconds)
    if not taken:
        _log.info("What another run holds, or one that was killed, comes back within %d s after its end", LEASE_SECONDS)
    return taken


def progress_of(leases: Leases) -> str:
    """Return how far a run is. Fits a terminal of 80 columns up to ten million messages."""
    return f"pulled {leases.pulled:,}, acknowledged {leases.acknowledged:,}, table loads {leases.loaded:,}"


def failure_summary(failures: Sequence[str]) -> str:
    """One message for the failures that are unresolved when a stream ends."""
    head = (
        f"{len(failures)} of the buckets could not be delivered to or loaded when last tried; all else was. Nothing is lost, "
    )
    tail = f"the next run tries again, and nacked messages come again within {NACK_DELAY_SECONDS} s:"
    return with_list(head + tail, failures)


def run_streaming(options: PipelineOptions, plan: Plan, subscription: str) -> None:
    """Runs until a signal ends it, and has then delivered all that it has taken. UserError for unresolved failures.

    If the run fails, those messages whose events are in no manifest yet go back to Pub/Sub.
    """
    give_back_freed()
    console = Console(file=sys.stderr)  # bound now: a running Prism silences sys.stderr
    with (
        running_prism(options),
        subscriber() as client,
        Leases(subscription, client) as leases,
        status_line(lambda: progress_of(leases), STATUS_EVERY.total_seconds(), console),
        on_shutdown(leases.stop),
    ):
        _log.info("taking what comes, until SIGTERM or SIGINT")
        try:
            launch(options, plan).wait_until_finish()
        except RuntimeError as error:
            raise what_failed(error) from None
        except grpc.RpcError:
            raise UserError("Prism has ended while the stream ran: was it killed, or out of memory? Run it again.") from None
        finally:
            # A failed job's threads go on until they ask for more.
            leases.stop()
    if failures := leases.failures.unresolved():
        raise UserError(failure_summary(failures))
    _log.info("%s messages delivered and acknowledged", f"{leases.acknowledged:,}")


if __name__ == "__main__":
    sys.exit(run_main(main))
