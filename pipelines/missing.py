"""List the archived events that are neither delivered nor dead letters.

Prints one event per line: event type, tab, event id, as `python -m pipelines.backfill --ids` reads them. Compares the archive
with the id indexes of the buckets. It delivers nothing, but completes commits that were interrupted, as every command does.

Exit status: 0 if the list is complete, whether or not it is empty; 2 if a part of the archive could not be read, or the id of
an event can't be printed on one line.
"""

from __future__ import annotations

if __name__ == "__main__":
    from cli.interrupts import end_in_one_line

    end_in_one_line()

import argparse
import sys
from collections.abc import Sequence

from cli.command import CommandParser, UserError
from pipelines.arguments import add_settings, hours
from pipelines.command import run_main
from schemas.errors import plural, with_list
from storage.open import open_store
from transforms.dedup.delivered_index import DeliveredIndexes
from transforms.recovery.archive import Wanted, archive_files
from transforms.recovery.archive_source import Reading
from transforms.recovery.missing_events import missing


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    flags = CommandParser(prog="python -m pipelines.missing", description=__doc__)
    flags.add_argument("--archive", required=True, help="object store of the archive: a folder, or gs://bucket[/prefix]")
    flags.add_argument("--storage", required=True, help="object store of deliver: a folder, or gs://bucket[/prefix]")
    flags.add_argument(
        "--hours",
        required=True,
        type=hours,
        help="hours of the events, for example 2026-01-31T00..2026-01-31T23, both included",
    )
    add_settings(flags)
    return flags


def main(argv: Sequence[str]) -> int:
    """Print the missing events, sorted."""
    flags = parser().parse_args(argv)
    archive, store = open_store(flags.archive), open_store(flags.storage)
    first, last = flags.hours
    wanted = Wanted(first, last, flags.allowed_lateness)
    files = archive_files(archive, wanted)
    if not files:
        raise UserError(f"{archive.uri}: no file can contain events of these hours. What to do: check --archive and --hours")
    delivered, reading = DeliveredIndexes(store, flags.dedup_horizon), Reading(archive, files, wanted)
    missing_events = {event for batch, _ in reading.batches() for event in missing(store, batch, wanted, delivered)}
    printable = sorted(
        (kind, event_id) for kind, event_id in missing_events if not {"\t", "\n"} & {*kind} and "\n" not in event_id
    )
    for kind, event_id in printable:
        print(f"{kind}\t{event_id}")
    incomplete = []
    if unread := len(reading.problems):  # They are in the log.
        incomplete.append(
            f"{unread} {plural(unread, 'part')} of the archive, named above, can't be read. "
            "What to do: restore these files from a copy, then list again"
        )
    if unprintable := len(missing_events) - len(printable):
        incomplete.append(
            f"{unprintable} missing {plural(unprintable, 'event has', 'events have')} a line break or tab in the id or type. "
            "What to do: backfill their hours without --ids"
        )
    if incomplete:
        raise UserError(with_list("the list lacks events, or may lack some:", incomplete))
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
