"""audit: proves for each event type and hour that nothing is missing and nothing is there twice, or names what is.

Takes the reports that publishers and deliver have sent, keeps them beside the buckets, counts what files and tables really
hold, and judges. Exit status 0: every verdict is COMPLETE; 1: some is not; 2: it could not be done.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Any

from google.cloud import pubsub_v1
from rich.console import Console
from rich.progress import Progress

from pipelines.clients import subscriber
from pipelines.flags import UserError, hours, resource, run_main
from schemas.reports import parse_report
from schemas.verdicts import Status
from transforms.buckets import Buckets
from transforms.buckets.opening import open_buckets
from transforms.clocks import utc_now
from transforms.judging import judge_hours
from transforms.ledger import keep, known_hours
from transforms.pubsub import Leases, batches, check_subscription
from transforms.tables import Tables
from transforms.tables.opening import open_tables
from transforms.verdicts import TABLE, keep_verdicts, to_json

NO_TYPE = "(no type)"

_log = logging.getLogger(__name__)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    flags = argparse.ArgumentParser(prog="python -m pipelines.audit", description=__doc__, allow_abbrev=False)
    flags.add_argument("--subscription", required=True, type=resource("subscriptions"), help="where the reports come from")
    flags.add_argument("--buckets", required=True, help="the folder or gs://bucket[/prefix] that deliver writes to")
    flags.add_argument("--tables", required=True, help="the FILE.duckdb or bigquery://project.dataset that deliver loads")
    flags.add_argument(
        "--verdicts", type=Path, default=Path("verdicts.json"), help="the JSON file to write (default: verdicts.json)"
    )
    flags.add_argument("--hours", type=hours, help="judge only these, FROM..TO as 2026-01-31T00..2026-01-31T23 (default: all)")
    return flags


def main(argv: Sequence[str]) -> int:
    """Takes reports, judges, keeps the verdicts, and tells about each that is not COMPLETE."""
    flags = parser().parse_args(argv)
    buckets, tables = open_buckets(flags.buckets), open_tables(flags.tables)
    buckets.check_writable()
    tables.check_writable(buckets)
    with subscriber() as client:
        check_subscription(client, flags.subscription)
        take_reports(client, flags.subscription, buckets)
    asked = [hour for hour in known_hours(buckets) if not flags.hours or flags.hours[0] <= hour <= flags.hours[1]]
    rows = audit(buckets, tables, asked)
    write_json(flags.verdicts, rows)
    for row in rows:
        if row["status"] != Status.COMPLETE:
            print(f"{row['event_type'] or NO_TYPE} {row['hour']}: {row['status']}: {'; '.join(row['findings'])}")
    numbers = Counter(row["status"] for row in rows)
    print(
        ", ".join(f"{number} {status}" for status, number in sorted(numbers.items()))
        or "UNKNOWN: nobody has reported anything yet"
    )
    return 0 if set(numbers) == {Status.COMPLETE} else 1


def take_reports(client: pubsub_v1.SubscriberClient, subscription: str, buckets: Buckets) -> None:
    """Keeps the reports that have come, and only then acknowledges them."""
    with Leases(subscription, client) as leases:
        for batch in batches(leases, utc_now()):
            reports = []
            for received in batch:
                try:
                    parse_report(received.message.data)
                    reports.append(received.message.data)
                except ValueError as error:
                    name = f"audit/unreadable/{received.message.message_id}"
                    _log.warning(
                        "%s: message %s is not a report, kept as %s: %s", subscription, received.message.message_id, name, error
                    )
                    buckets.write(name, received.message.data)
                leases.use(received.ack_id)
            keep(buckets, reports)
        leases.acknowledge()


def audit(buckets: Buckets, tables: Tables, asked: Sequence[datetime]) -> list[dict[str, Any]]:
    """Judges hours and keeps the verdicts, hour by hour. Returns them as JSON objects."""
    tables.ensure(TABLE)
    rows = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("hours judged", total=len(asked))
        for hour, verdicts in groupby(judge_hours(buckets, tables, asked), key=lambda verdict: verdict.hour):
            rows += keep_verdicts(buckets, tables, hour, list(verdicts), utc_now())
            progress.advance(task)
    return [to_json(row) for row in rows]


def write_json(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Puts the verdicts into the file, over those of the same event type and hour, and keeps the others. Raises UserError."""
    try:
        old = json.loads(file.read_text()) if file.exists() else []
        merged = {(row["hour"], row["event_type"]): row for row in (*old, *rows)}
        unfinished = file.with_name(f"{file.name}.new")
        unfinished.write_text(json.dumps([merged[key] for key in sorted(merged)], indent=1) + "\n")
        unfinished.replace(file)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{file} can't be updated: {error!r}. Move it away, or name another file with --verdicts.") from None


if __name__ == "__main__":
    sys.exit(run_main(main))
