"""backfill: rebuilds the buckets of some hours from what a Cloud Storage subscription has archived.

Goes the way of every event: what a bucket holds already is a duplicate, so hours that are complete keep their rows, and hours
that were deleted get theirs back. With --ids it is a repair: delivers these events alone, and looks at no other bucket;
`python -m pipelines.missing` names them. May be repeated. Exit status 2 when something in the archive could not be read, or was
not there; all else is delivered then.

It works in this process, and holds a batch of 100,000 messages or 64 MiB of data at a time. By the time in their names it reads
the files from an hour before the first of the hours until the allowed lateness and 32 days after the last, since an event may
be published late, and written later still; so give --allowed_lateness as deliver has it. For messages of 300 bytes over six
hours the peak was 660 MB for 300,000 and 960 MB for a million, what grows being indexes and what the table store takes;
the million took 57 s of a core.
"""

from __future__ import annotations

if __name__ == "__main__":
    from cli.interrupts import end_in_one_line

    end_in_one_line()

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cli.help import ParagraphFormatter
from pipelines.arguments import add_stores, hours
from pipelines.command import UserError, run_main
from pipelines.graph import LOCAL_SHARDS, Plan, SweepScope, launch
from pipelines.progress import map_with_progress
from pipelines.pubsub_clients import publisher
from pipelines.runners import LOCAL, beam_options
from schemas.buckets import FIRST_HOUR
from schemas.errors import with_list
from schemas.registry.contracts import load_contracts
from schemas.tables import tables_of
from storage.open import open_store, open_tables
from storage.tables.base import TableStoreError
from transforms.clocks import utc_now
from transforms.pubsub.retry import check_topic
from transforms.recovery.archive import Wanted, archive_files
from transforms.recovery.archive_source import ReadBatch, Reading


def parser() -> argparse.ArgumentParser:
    """The command line."""
    flags = argparse.ArgumentParser(
        prog="python -m pipelines.backfill", description=__doc__, formatter_class=ParagraphFormatter, allow_abbrev=False
    )
    flags.add_argument("--archive", required=True, help="the folder or gs://bucket[/prefix] that the subscription writes to")
    flags.add_argument(
        "--hours", required=True, type=hours, help="events of which hours, FROM..TO as 2026-01-31T00..2026-01-31T23"
    )
    flags.add_argument("--ids", type=Path, help="only the events in this file: event type, tab and event id, one a line")
    add_stores(flags)
    return flags


def main(argv: Sequence[str]) -> int:
    """Delivers what the archive has of the hours. Raises what `run_main` tells the user."""
    flags = parser().parse_args(argv)
    contracts = load_contracts(flags.contracts)
    archive, store, tables = open_store(flags.archive), open_store(flags.storage), open_tables(flags.tables)
    first, last = flags.hours
    wanted = Wanted(first, last, flags.allowed_lateness, read_ids(flags.ids) if flags.ids else None)
    options, run_started_at = beam_options(LOCAL, []), utc_now()
    store.check_writable()
    tables.check_writable(store)
    with publisher() as client:
        check_topic(client, flags.audit_topic)
    files = archive_files(archive, wanted)
    if not files:
        raise UserError(f"{archive.uri}: there is no file that can hold events of these hours. Is it the archive?")
    map_with_progress("tables checked", tables.ensure, list(tables_of(contracts).values()))
    reading = Reading(archive, files, wanted)
    problems: list[str] = []
    for batch, is_last in reading.batches():
        # More may come for any hour until the last batch, so only that one closes buckets; a repair's are closed already.
        closes = is_last or wanted.ids is not None
        plan = Plan(
            source=ReadBatch(batch),
            ends=True,
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
    print(f"{reading.messages} messages taken from {len(files)} archive files")
    absent = [f"not in the archive: {kind} {event_id}" for kind, event_id in sorted(set(wanted.ids or ()) - reading.found)]
    if problems := [*reading.problems, *absent, *dict.fromkeys(problems)]:
        raise UserError(with_list("all was delivered but for this:", problems))
    return 0


def read_ids(file: Path) -> frozenset[tuple[str, str]]:
    """Event types and ids from a file. Raises UserError, naming the line that is wrong."""
    try:
        lines = file.read_bytes().decode().split("\n")  # an id may hold what else ends a line for Python
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--ids={file} can't be read: {error}") from None
    ids = set()
    for number, line in enumerate(lines, 1):
        kind, tab, event_id = line.partition("\t")
        if line and not (tab and event_id):
            raise UserError(f"{file}, line {number}: expected are an event type, a tab and an event id")
        if line:
            ids.add((kind, event_id))
    if not ids:
        raise UserError(f"{file} names no event: expected are an event type, a tab and an event id, one a line")
    return frozenset(ids)


if __name__ == "__main__":
    sys.exit(run_main(main))
