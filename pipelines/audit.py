"""Prove for each event type and hour that no event is missing or duplicated, or report how many are.

Pulls the reports of publishers and of deliver, and stores them beside the buckets. Then compares number and fingerprint of the
event ids that were published, are in files, and are in tables.

Exit status: 0 if every verdict is COMPLETE; 1 if some verdict is not, an hour has no report, or a message could not be parsed
as a report; 2 if the audit failed.
"""

from __future__ import annotations

if __name__ == "__main__":
    from cli.interrupts import end_in_one_line

    end_in_one_line()

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

from audit.auditor import judge_hours
from audit.report_log import keep, known_hours
from audit.verdict_table import TABLE, keep_verdicts, to_json
from audit.verdicts import Status
from cli.command import CommandParser, UserError
from cli.progress import progress_bar, status_line
from pipelines.arguments import hours, resource
from pipelines.command import run_main
from pipelines.pubsub_clients import if_unreachable, subscriber
from schemas.audit_reports import parse_report
from schemas.buckets import DEAD_LETTERS, FIRST_HOUR, HOUR, LAST_HOUR
from schemas.envelope import format_time
from schemas.errors import plural
from storage.buckets.listing import buckets_of, event_types_of
from storage.objects.base import ObjectStore
from storage.open import open_store, open_tables
from storage.tables.base import TableStore
from transforms.clocks import utc_now
from transforms.pubsub.leases import Leases, batches
from transforms.pubsub.retry import check_subscription

NO_TYPE = "(no type)"
UNREADABLE = "audit/unreadable"

_log = logging.getLogger(__name__)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    flags = CommandParser(prog="python -m pipelines.audit", description=__doc__)
    flags.add_argument(
        "--subscription",
        required=True,
        type=resource("subscriptions"),
        help="subscription of the audit topic, with the reports: projects/PROJECT/subscriptions/NAME",
    )
    flags.add_argument("--storage", required=True, help="object store of deliver: a folder, or gs://bucket[/prefix]")
    flags.add_argument("--tables", required=True, help="table store of deliver: FILE.duckdb, or bigquery://project.dataset")
    flags.add_argument("--verdicts", type=Path, help="JSON file that the verdicts are merged into (default: none)")
    flags.add_argument(
        "--hours", type=hours, help="hours to audit, for example 2026-01-31T00..2026-01-31T23, both included (default: all)"
    )
    return flags


def main(argv: Sequence[str]) -> int:
    """Pull the reports, audit the hours, store the verdicts, and print each one that is not COMPLETE."""
    flags = parser().parse_args(argv)
    store, tables = open_store(flags.storage), open_tables(flags.tables)
    check_delivered(store, tables)
    store.check_writable()
    tables.check_writable(store)
    if flags.verdicts:
        write_json(flags.verdicts, [])  # fails before a report is pulled if the file can't be updated
    with subscriber() as client:
        check_subscription(client, flags.subscription, if_unreachable())
        unreadable = take_reports(client, flags.subscription, store)
    audited = every_hour(*flags.hours) if flags.hours else all_hours(store)
    rows = audit(store, tables, audited)
    if flags.verdicts:
        write_json(flags.verdicts, rows)
    unreported = sorted({format_time(hour) for hour in audited} - {row["hour"] for row in rows})
    for row in rows:
        if row["status"] != Status.COMPLETE:
            print(f"{_printable(row['event_type'])} {row['hour']}: {row['status']}: {'; '.join(row['findings'])}")
    if unreported:
        print(f"UNKNOWN: {len(unreported)} of {len(audited)} hours with neither a report nor a bucket, first {unreported[0]}")
    if unreadable:
        print(f"{unreadable} {plural(unreadable, 'message')} could not be parsed as a report; see {store.uri}/{UNREADABLE}/")
    counts = Counter(row["status"] for row in rows)
    print(_totals(counts))
    return 0 if set(counts) == {Status.COMPLETE} and not unreported and not unreadable else 1


def _totals(counts: Counter[str]) -> str:
    """Return the last line: how many verdicts there are, and how many of each status."""
    if not counts:
        return "UNKNOWN: there are no reports yet"
    by_status = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    return f"{counts.total()} {plural(counts.total(), 'verdict')}: {by_status}"


def _printable(event_type: str) -> str:
    """Return an event type as it can be printed on a terminal. An unknown one may be any text that a client has sent."""
    return (event_type if event_type.isprintable() else repr(event_type)) or NO_TYPE


def every_hour(first: datetime, last: datetime) -> list[datetime]:
    """Return the hours from `first` to `last`, both included."""
    return [first + HOUR * step for step in range((last - first) // HOUR + 1)]


def all_hours(store: ObjectStore) -> list[datetime]:
    """Return the hours that have a report or a bucket. A bucket is enough, because its reports may have been lost."""
    streams = [*event_types_of(store), DEAD_LETTERS]
    with_bucket = {bucket.hour for stream in streams for bucket in buckets_of(store, stream, FIRST_HOUR, LAST_HOUR)}
    return sorted(with_bucket.union(known_hours(store)))


def check_delivered(store: ObjectStore, tables: TableStore) -> None:
    """Raise UserError if deliver has never written to the stores: most likely the flags differ from those of deliver."""
    if all(next(store.list(folder), None) is None for folder in ("events/", f"{DEAD_LETTERS}/")):
        raise UserError(f"{store.uri}: nothing was ever delivered here. What to do: pass the --storage of deliver")
    if "://" not in tables.uri and not Path(tables.uri).exists():
        raise UserError(f"{tables.uri}: nothing was ever delivered here. What to do: pass the --tables of deliver")


def take_reports(client: pubsub_v1.SubscriberClient, subscription: str, store: ObjectStore) -> int:
    """Store the reports, then acknowledge their messages. Return the number of messages that are not reports."""
    unreadable = 0
    with Leases(subscription, client) as leases, status_line(lambda: f"reports pulled {leases.pulled:,}"):
        for batch in batches(leases, utc_now()):
            reports = []
            for received in batch:
                try:
                    reports.append(parse_report(received.message.data))
                except ValueError as error:
                    unreadable += 1
                    name = f"{UNREADABLE}/{received.message.message_id}"
                    _log.warning(
                        "%s: message %s is not a report and is stored as %s: %s",
                        subscription,
                        received.message.message_id,
                        name,
                        error,
                    )
                    store.write(name, received.message.data)
            keep(store, reports)
            leases.acknowledge([received.message.message_id for received in batch])
    return unreadable


def audit(store: ObjectStore, tables: TableStore, audited: Sequence[datetime]) -> list[dict[str, Any]]:
    """Audit hours, store the verdicts hour by hour, and return them as JSON objects sorted by hour and event type."""
    tables.ensure(TABLE)
    rows = []
    with progress_bar("hours judged", len(audited)) as show_done:
        by_hour = groupby(judge_hours(store, tables, audited), key=lambda verdict: verdict.hour)
        for done, (hour, verdicts) in enumerate(by_hour, 1):
            rows += keep_verdicts(store, tables, hour, list(verdicts), utc_now())
            show_done(done)
    return [to_json(row) for row in sorted(rows, key=lambda row: (row["hour"], row["event_type"]))]


def write_json(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Merge verdicts into a JSON file. They replace those of the same event type and hour; the file keeps all others.

    Raises:
        UserError: the file is not a list of verdicts, or can't be written.
    """
    try:
        old = json.loads(file.read_text()) if file.exists() else []
        merged = {(row["hour"], row["event_type"]): row for row in (*old, *rows)}
        unfinished = file.with_name(f"{file.name}.new")
        unfinished.write_text(json.dumps([merged[key] for key in sorted(merged)], indent=1) + "\n")
        unfinished.replace(file)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{file} can't be updated: {error!r}. What to do: move it, or pass another file as --verdicts"
        ) from None


if __name__ == "__main__":
    sys.exit(run_main(main))
