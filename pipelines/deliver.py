"""Deliver events from a Pub/Sub subscription exactly once to hourly Avro files and table partitions.

On one machine it delivers the messages that were published before it started, and ends. With --mode=stream it runs on Beam's
Prism until SIGTERM or SIGINT, and then delivers the messages that it has pulled. In both modes a message is acknowledged after
its event is in a manifest. On Dataflow it runs until it is drained.

A bucket closes when its hour is over. A run that ends writes the buckets of the current hour without closing them; a later run
closes them. A stream closes each bucket soon after the end of its hour.

Exit status: 0 if all messages were delivered, also for a stream that a signal ended; 2 if a bucket could not be delivered to or
loaded, or something else failed; 130 or 143 if a signal interrupted it.
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

from cli.command import CommandParser, UserError
from cli.progress import status_line
from pipelines.arguments import add_stores, duration, resource
from pipelines.command import on_shutdown, run_main
from pipelines.graph import DATAFLOW_PACE, DATAFLOW_SHARDS, LOCAL_SHARDS, Plan, launch, local_pace
from pipelines.memory import give_back_freed
from pipelines.prism import running_prism, what_failed
from pipelines.progress import map_with_progress
from pipelines.pubsub_clients import if_unreachable, publisher, subscriber
from pipelines.runners import DATAFLOW, LOCAL, PRISM, add_runner, beam_options, is_dry_run, parse
from schemas.envelope import DEDUP_KEY
from schemas.errors import plural, with_list
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
"""How often a stream prints its progress if standard error is not a terminal."""

_log = logging.getLogger(__name__)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line, without Beam's own flags."""
    flags = CommandParser(prog="python -m pipelines.deliver", description=__doc__)
    flags.add_argument(
        "--subscription",
        required=True,
        type=resource("subscriptions"),
        help="subscription of the events: projects/PROJECT/subscriptions/NAME",
    )
    add_stores(flags)
    flags.add_argument(
        "--mode",
        choices=[AVAILABLE_NOW, STREAMING],
        help=f"{AVAILABLE_NOW} (the default on one machine): deliver the messages that are published already, and end; "
        f"{STREAMING}: run until SIGTERM or SIGINT, on Beam's Prism, which is downloaded unless --prism_location=FILE names "
        f"it. {DATAFLOW} has only {STREAMING}",
    )
    flags.add_argument(
        "--flush_every",
        type=duration,
        help=f"how often a stream on one machine writes files and acknowledges messages (default: "
        f"{FLUSH_EVERY.total_seconds():.0f}s; at least 1s). Each flush adds a file to every bucket that has new events, and a "
        "version of its manifest, which lists all files of the hour. Values far below the default are for experiments only",
    )
    add_runner(flags)
    return flags


def main(argv: Sequence[str]) -> int:
    """Check flags, stores, subscription and topic, then run the pipeline. A dry run does not use the network."""
    flags, rest = parse(parser(), argv)
    contracts = load_contracts(flags.contracts)
    store, tables = open_store(flags.storage), open_tables(flags.tables)
    runner = PRISM if flags.runner == LOCAL and flags.mode == STREAMING else flags.runner
    check_mode(runner, flags)
    options, run_started_at = beam_options(runner, rest), utc_now()
    if runner == DATAFLOW and not (store.uri.startswith("gs://") and tables.uri.startswith("bigquery://")):
        raise UserError(
            f"{DATAFLOW} can't access the files of this machine. What to do: pass --storage=gs://... and --tables=bigquery://..."
        )
    if not is_dry_run(options):
        check(store, tables, flags.subscription, flags.audit_topic)
        map_with_progress("tables checked", tables.ensure, list(tables_of(contracts).values()))
    plan = Plan(
        source=ReadFromPubSub(subscription=flags.subscription, id_label=DEDUP_KEY, with_attributes=True)
        if runner == DATAFLOW
        else beam.io.Read(PubSubSource(flags.subscription, run_started_at if runner == LOCAL else None)),
        bounded=runner == LOCAL,
        run_started_at=run_started_at,
        contracts=contracts,
        store=store,
        tables=tables,
        audit_topic=flags.audit_topic,
        allowed_lateness=flags.allowed_lateness,
        horizon=flags.dedup_horizon,
        shards=DATAFLOW_SHARDS if runner == DATAFLOW else LOCAL_SHARDS,
        leased_subscription=None if runner == DATAFLOW else flags.subscription,
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
    """Raise UserError for flags that the runner does not support."""
    if runner == DATAFLOW and flags.mode == AVAILABLE_NOW:
        raise UserError(f"{DATAFLOW} runs until it is drained. What to do: omit --mode={AVAILABLE_NOW}")
    if flags.flush_every is not None:
        if runner != PRISM:
            raise UserError(
                f"--flush_every is for a stream on one machine. What to do: add --mode={STREAMING}, or omit --flush_every"
            )
        if not flags.flush_every:
            raise UserError("--flush_every=0 is too short. What to do: pass at least 1s")


def check(store: ObjectStore, tables: TableStore, subscription: str, audit_topic: str) -> None:
    """Raise StoreError, TableStoreError, PubSubError or UserError unless stores, subscription and topic can be used."""
    store.check_writable()
    tables.check_writable(store)
    with subscriber() as client:
        topic = check_subscription(client, subscription, if_unreachable())
    if topic == audit_topic:
        raise UserError(
            f"--audit_topic={audit_topic} is the topic of {subscription}, so the counts would be delivered as events. "
            "What to do: pass another topic"
        )
    with publisher() as client:
        check_topic(client, audit_topic, if_unreachable())


def dry_run(options: PipelineOptions, plan: Plan) -> None:
    """Build the Dataflow job without starting it, and write its graph to --dataflow_job_file, which Beam omits in a dry run."""
    job = launch(options, plan).job
    steps = len(job.proto_pipeline.components.transforms)
    summary = (
        f"dry run: job {job.proto.name} of {steps} steps was built, not started; stores, topics and rights were not checked"
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
    """Run until the source ends, and return the number of acknowledged messages.

    If the run fails, the leases of messages whose events are in no manifest are released.
    """
    begin = time.monotonic()
    with subscriber() as client, Leases(subscription, client) as leases, status_line(lambda: progress_of(leases)):
        launch(options, plan).wait_until_finish()
    seconds, taken = time.monotonic() - begin, leases.acknowledged
    _log.info("%s messages delivered and acknowledged in %.1f s", f"{taken:,}", seconds)
    if not taken:
        _log.info("Messages leased by another run are redelivered within %d s after it ends or is killed", LEASE_SECONDS)
    return taken


def progress_of(leases: Leases) -> str:
    """Return how far a run is. Fits a terminal of 80 columns up to ten million messages."""
    return f"pulled {leases.pulled:,}, acknowledged {leases.acknowledged:,}, table loads {leases.loaded:,}"


def failure_summary(failures: Sequence[str]) -> str:
    """Return one message for the failures that are unresolved when a stream ends."""
    buckets = plural(len(failures), "bucket failed and was skipped", "buckets failed and were skipped")
    head = (
        f"{len(failures)} {buckets}; all others were delivered and loaded. No event is lost: the next run retries them,"
        f" and nacked messages are redelivered within {NACK_DELAY_SECONDS} s:"
    )
    return with_list(head, failures)


def run_streaming(options: PipelineOptions, plan: Plan, subscription: str) -> None:
    """Run until a signal, then deliver the messages that were pulled.

    If the run fails, the leases of messages whose events are in no manifest are released.

    Raises:
        UserError: some buckets could not be delivered to or loaded when last tried.
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
        _log.info("delivering messages until SIGTERM or SIGINT")
        try:
            launch(options, plan).wait_until_finish()
        except RuntimeError as error:
            raise what_failed(error) from None
        except grpc.RpcError:
            raise UserError(
                "Prism has ended while the stream ran: it was killed, or ran out of memory. What to do: run it again"
            ) from None
        finally:
            # The threads of a failed job run until their next pull, which returns nothing once the leases are stopped.
            leases.stop()
    if failures := leases.failures.unresolved():
        raise UserError(failure_summary(failures))
    _log.info("%s messages delivered and acknowledged", f"{leases.acknowledged:,}")


if __name__ == "__main__":
    sys.exit(run_main(main))
