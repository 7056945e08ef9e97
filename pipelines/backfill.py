"""Rebuild the buckets of some hours from the archive, the files that a Cloud Storage subscription has written.

The messages take the same steps as in deliver. Events that are delivered already are duplicates, so complete hours keep their
rows, and deleted hours get theirs back. With --ids it delivers only the listed events, and closes no bucket; `python -m
pipelines.missing` lists the events that are missing. A backfill can be repeated.

It selects files by the time in their names: from one hour before the first hour to the allowed lateness and 32 days after the
last hour. An event may be published late, and archived even later, so pass the --allowed_lateness of deliver.

It runs in this process, with batches of 100,000 messages or 64 MiB of data. Measured with messages of 300 bytes over six hours:
a peak of 660 MB for 300,000 messages and of 960 MB for a million, which took 57 s of one core. The growth is due to id indexes
and the table store.

Exit status: 0 if all events were delivered; 2 if a part of the archive can't be read, or the archive lacks an event of --ids.
All other events are delivered in these cases. If the backfill fails otherwise, the status is 2 as well.
"""

from __future__ import annotations

if __name__ == "__main__":
    from cli.interrupts import end_in_one_line

    end_in_one_line()

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cli.command import CommandParser, UserError
from pipelines.arguments import add_stores, hours
from pipelines.command import run_main
from pipelines.graph import LOCAL_SHARDS, Plan, SweepScope, launch
from pipelines.progress import map_with_progress
from pipelines.pubsub_clients import if_unreachable, publisher
from pipelines.runners import LOCAL, beam_options
from schemas.buckets import FIRST_HOUR
from schemas.errors import plural, with_list
from schemas.registry.contracts import load_contracts
from schemas.tables import tables_of
from storage.open import open_store, open_tables
from storage.tables.base import TableStoreError
from transforms.clocks import utc_now
from transforms.pubsub.retry import check_topic
from transforms.recovery.archive import Wanted, archive_files
from transforms.recovery.archive_source import ReadBatch, Reading


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    flags = CommandParser(prog="python -m pipelines.backfill", description=__doc__)
    flags.add_argument("--archive", required=True, help="object store of the archive: a folder, or gs://bucket[/prefix]")
    flags.add_argument(
        "--hours",
        required=True,
        type=hours,
        help="hours of the events, for example 2026-01-31T00..2026-01-31T23, both included",
    )
    flags.add_argument(
        "--ids", type=Path, help="file that lists the events to deliver, one per line: event type, tab, event id (default: all)"
    )
    add_stores(flags)
    return flags


def main(argv: Sequence[str]) -> int:
    """Deliver the archived events of the hours."""
    flags = parser().parse_args(argv)
    contracts = load_contracts(flags.contracts)
    archive, store, tables = open_store(flags.archive), open_store(flags.storage), open_tables(flags.tables)
    first, last = flags.hours
    wanted = Wanted(first, last, flags.allowed_lateness, read_ids(flags.ids) if flags.ids else None)
    options, run_started_at = beam_options(LOCAL, []), utc_now()
    store.check_writable()
    tables.check_writable(store)
    with publisher() as client:
        check_topic(client, flags.audit_topic, if_unreachable())
    files = archive_files(archive, wanted)
    if not files:
        raise UserError(f"{archive.uri}: no file can contain events of these hours. What to do: check --archive and --hours")
    map_with_progress("tables checked", tables.ensure, list(tables_of(contracts).values()))
    reading = Reading(archive, files, wanted)
    problems: list[str] = []
    for batch, is_last in reading.batches():
        # Any batch may have events of any hour, so only the last one closes buckets. With --ids they are closed already.
        closes = is_last or wanted.ids is not None
        plan = Plan(
            source=ReadBatch(batch),
            bounded=True,
            run_started_at=run_started_at if closes else FIRST_HOUR,
            contracts=contracts,
            store=store,
            tables=tables,
            audit_topic=flags.audit_topic,
            allowed_lateness=flags.allowed_lateness,
            horizon=flags.dedup_horizon,
            shards=LOCAL_SHARDS,
            sweep_scope=SweepScope.SEEN if is_last and wanted.ids is None else SweepScope.NONE,
            hours_seen=tuple(reading.hours) if is_last and wanted.ids is None else (),
        )
        try:
            launch(options, plan).wait_until_finish()
        except TableStoreError as error:
            problems.append(str(error))
    print(
        f"{reading.messages} {plural(reading.messages, 'message')} read from {len(files)} archive {plural(len(files), 'file')}"
    )
    absent = [f"{kind} {event_id}: not in the archive" for kind, event_id in sorted(set(wanted.ids or ()) - reading.found)]
    if problems := [*reading.problems, *absent, *dict.fromkeys(problems)]:
        raise UserError(with_list("all other events were delivered; these problems are left:", problems))
    return 0


def read_ids(file: Path) -> frozenset[tuple[str, str]]:
    """Return the event types and ids that a file lists. Raises UserError, which names the first line that is malformed."""
    try:
        lines = file.read_bytes().decode().split("\n")  # not splitlines: an id may contain other line separators
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--ids={file} can't be read: {error}") from None
    ids = set()
    for number, line in enumerate(lines, 1):
        kind, tab, event_id = line.partition("\t")
        if line and not (tab and event_id):
            raise UserError(f"{file}, line {number}: expected an event type, a tab and an event id")
        if line:
            ids.add((kind, event_id))
    if not ids:
        raise UserError(f"{file} lists no event; expected one per line: an event type, a tab and an event id")
    return frozenset(ids)


if __name__ == "__main__":
    sys.exit(run_main(main))
