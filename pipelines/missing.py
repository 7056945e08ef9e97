"""missing: names the events that the archive has, and that deliver has neither delivered nor refused: what a repair brings.

On the standard output, an event type, a tab and an event id a line, as `python -m pipelines.backfill --ids` reads them. Reads
the archive and the buckets' indexes, and writes nothing. Exit status 2 when not all of the archive could be read or named.
"""

from __future__ import annotations

if __name__ == "__main__":
    from cli.interrupts import end_in_one_line

    end_in_one_line()

import argparse
import sys
from collections.abc import Sequence

from cli.help import ParagraphFormatter
from pipelines.arguments import add_settings, hours
from pipelines.command import UserError, run_main
from schemas.errors import with_list
from storage.open import open_store
from transforms.dedup.delivered_index import DeliveredIndexes
from transforms.recovery.archive import Wanted, archive_files
from transforms.recovery.archive_source import Reading
from transforms.recovery.missing_events import missing


def parser() -> argparse.ArgumentParser:
    """The command line."""
    flags = argparse.ArgumentParser(
        prog="python -m pipelines.missing", description=__doc__, formatter_class=ParagraphFormatter, allow_abbrev=False
    )
    flags.add_argument("--archive", required=True, help="the folder or gs://bucket[/prefix] that the subscription writes to")
    flags.add_argument("--storage", required=True, help="the folder or gs://bucket[/prefix] that deliver writes to")
    flags.add_argument(
        "--hours", required=True, type=hours, help="events of which hours, FROM..TO as 2026-01-31T00..2026-01-31T23"
    )
    add_settings(flags)
    return flags


def main(argv: Sequence[str]) -> int:
    """Prints them, in order. Raises what `run_main` tells the user."""
    flags = parser().parse_args(argv)
    archive, store = open_store(flags.archive), open_store(flags.storage)
    first, last = flags.hours
    wanted = Wanted(first, last, flags.allowed_lateness)
    files = archive_files(archive, wanted)
    if not files:
        raise UserError(f"{archive.uri}: there is no file that can hold events of these hours. Is it the archive?")
    delivered, reading = DeliveredIndexes(store, flags.dedup_horizon), Reading(archive, files, wanted)
    missing_events = {event for batch, _ in reading.batches() for event in missing(store, batch, wanted, delivered)}
    plain = sorted((kind, event_id) for kind, event_id in missing_events if not {"\t", "\n"} & {*kind} and "\n" not in event_id)
    for kind, event_id in plain:
        print(f"{kind}\t{event_id}")
    problems = reading.problems
    if len(plain) < len(missing_events):
        problems.append(f"{len(missing_events) - len(plain)} ids have line breaks: backfill their hours without --ids")
    if problems:
        raise UserError(with_list("there may be more, because of this:", problems))
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
