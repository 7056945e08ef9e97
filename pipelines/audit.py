"""audit: proves for each event type and hour that nothing is missing and nothing is there twice, or names what is.

Takes the reports that publishers and deliver have sent, keeps them beside the buckets, counts what files and tables really
hold, and judges. Exit status 0: every verdict is COMPLETE; 1: some is not, or a message could not be read; 2: it could not
be done.
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
from cli.help import ParagraphFormatter
from cli.progress import progress_bar, status_line
from pipelines.arguments import hours, resource
from pipelines.command import UserError, run_main
from pipelines.pubsub_clients import subscriber
from schemas.audit_reports import parse_report
from schemas.buckets import DEAD_LETTERS, FIRST_HOUR, HOUR, LAST_HOUR
from schemas.envelope import format_time
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
    """The command line."""
    flags = argparse.ArgumentParser(
        prog="python -m pipelines.audit", description=__doc__, formatter_class=ParagraphFormatter, allow_abbrev=False
    )
    flags.add_argument("--subscription", required=True, type=resource("subscriptions"), help="where the reports come from")
    flags.add_argument("--storage", required=True, help="the folder or gs://bucket[/prefix] that deliver writes to")
    flags.add_argument("--tables", required=True, help="the FILE.duckdb or bigquery://project.dataset that deliver loads")
    flags.add_argument("--verdicts", type=Path, help="JSON file that the verdicts are merged into (default: none)")
    flags.add_argument("--hours", type=hours, help="judge only these, FROM..TO as 2026-01-31T00..2026-01-31T23 (default: all)")
    return flags


def main(argv: Sequence[str]) -> int:
    """Takes reports, judges, keeps the verdicts, and tells about each that is not COMPLETE."""
    flags = parser().parse_args(argv)
    store, tables = open_store(flags.storage), open_tables(flags.tables)
    check_delivered(store, tables)
    store.check_writable()
    tables.check_writable(store)
    if flags.verdicts:
        write_json(flags.verdicts, [])  # fails before a report is pulled if the file can't be updated
    with subscriber() as client:
        check_subscription(client, flags.subscription)
        unreadable = take_reports(client, flags.subscription, store)
    asked = every_hour(*flags.hours) if flags.hours else all_hours(store)
    rows = audit(store, tables, asked)
    if flags.verdicts:
        write_json(flags.verdicts, rows)
    silent = sorted({format_time(hour) for hour in asked} - {row["hour"] for row in rows})
    for row in rows:
        if row["status"] != Status.COMPLETE:
            print(f"{_shown(row['event_type'])} {row['hour']}: {row['status']}: {'; '.join(row['findings'])}")
    if silent:
        print(f"UNKNOWN: nobody has reported on {len(silent)} of {len(asked)} hours, of which {silent[0]} is the first")
    if unreadable:
        print(f"{unreadable} messages could not be read as reports; they are kept in {store.uri}/{UNREADABLE}/")
    numbers = Counter(row["status"] for row in rows)
    print(
        ", ".join(f"{number} {status}" for status, number in sorted(numbers.items()))
        or "UNKNOWN: nobody has reported anything yet"
    )
    return 0 if set(numbers) == {Status.COMPLETE} and not silent and not unreadable else 1


def _shown(event_type: str) -> str:
    """The type for a terminal: a client may have claimed anything."""
    return (event_type if event_type.isprintable() else repr(event_type)) or NO_TYPE


def every_hour(first: datetime, last: datetime) -> list[datetime]:
    """The hours from `first` to `last`, both included."""
    return [first + HOUR * step for step in range((last - first) // HOUR + 1)]


def all_hours(store: ObjectStore) -> list[datetime]:
    """The hours that some report speaks of, and those that have a bucket: its reports may have been lost."""
    streams = [*event_types_of(store), DEAD_LETTERS]
    held = {bucket.hour for stream in streams for bucket in buckets_of(store, stream, FIRST_HOUR, LAST_HOUR)}
    return sorted(held.union(known_hours(store)))


def check_delivered(store: ObjectStore, tables: TableStore) -> None:
    """Raises UserError where deliver has never written anything: most likely the flags are not the ones that it has."""
    if all(next(store.list(folder), None) is None for folder in ("events/", f"{DEAD_LETTERS}/")):
        raise UserError(f"{store.uri}: nothing was ever delivered here. Give the --storage that deliver writes to.")
    if "://" not in tables.uri and not Path(tables.uri).exists():
        raise UserError(f"{tables.uri}: nothing was ever delivered here. Give the --tables that deliver loads.")


def take_reports(client: pubsub_v1.SubscriberClient, subscription: str, store: ObjectStore) -> int:
    """Keeps what has come, and only then acknowledges it. Returns how many messages are no reports."""
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
                    _log.warning("%s: message %s is kept as %s: %s", subscription, received.message.message_id, name, error)
                    store.write(name, received.message.data)
            keep(store, reports)
            leases.acknowledge([received.message.message_id for received in batch])
    return unreadable


def audit(store: ObjectStore, tables: TableStore, asked: Sequence[datetime]) -> list[dict[str, Any]]:
    """Judges hours and keeps the verdicts, hour by hour. Returns them as JSON objects, in the order of hours and types."""
    tables.ensure(TABLE)
    rows = []
    with progress_bar("hours judged", len(asked)) as show_done:
        by_hour = groupby(judge_hours(store, tables, asked), key=lambda verdict: verdict.hour)
        for done, (hour, verdicts) in enumerate(by_hour, 1):
            rows += keep_verdicts(store, tables, hour, list(verdicts), utc_now())
            show_done(done)
    return [to_json(row) for row in sorted(rows, key=lambda row: (row["hour"], row["event_type"]))]


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
