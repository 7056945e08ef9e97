"""Replace the table partitions of some hours by the rows of the data files in their manifests.

For tables that were dropped or corrupted, and for files that were restored: if the audit finds that table and files differ.
Pulls no messages, publishes no counts, and can be repeated.

Exit status: 0 if all partitions were loaded; 2 if some could not be loaded.
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
from pipelines.arguments import hours
from pipelines.command import run_main
from pipelines.progress import map_with_progress
from schemas.buckets import HOUR, Bucket
from schemas.errors import plural
from schemas.registry.contracts import DEFAULT_FOLDER, load_contracts
from schemas.tables import tables_of
from storage.buckets.manifest_store import DAMAGE, finished_receipt
from storage.open import open_store, open_tables
from storage.tables.base import LoadError
from transforms.clocks import new_id
from transforms.load.load import load, not_loaded


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    flags = CommandParser(prog="python -m pipelines.reload", description=__doc__)
    flags.add_argument("--storage", required=True, help="object store of deliver: a folder, or gs://bucket[/prefix]")
    flags.add_argument("--tables", required=True, help="table store of deliver: FILE.duckdb, or bigquery://project.dataset")
    flags.add_argument(
        "--hours",
        required=True,
        type=hours,
        help="hours of the partitions, for example 2026-01-31T00..2026-01-31T23, both included",
    )
    flags.add_argument("--type", help="event type to reload, or dead_letters (default: all)")
    flags.add_argument(
        "--contracts", type=Path, default=DEFAULT_FOLDER, help="contracts of deliver (default: those in the package)"
    )
    return flags


def main(argv: Sequence[str]) -> int:
    """Load the partitions, and print how many they are and how many rows they have."""
    flags = parser().parse_args(argv)
    wanted = tables_of(load_contracts(flags.contracts))
    if flags.type is not None:
        if flags.type not in wanted:
            raise UserError(f"--type={flags.type} is unknown. What to do: pass one of {', '.join(wanted)}")
        wanted = {flags.type: wanted[flags.type]}
    store, tables = open_store(flags.storage), open_tables(flags.tables)
    store.check_writable()
    tables.check_writable(store)
    map_with_progress("tables checked", tables.ensure, list(wanted.values()))
    first, last = flags.hours
    buckets = [Bucket(stream, first + number * HOUR) for stream in wanted for number in range((last - first) // HOUR + 1)]
    force_key = new_id()

    def reload(bucket: Bucket) -> int | str | None:
        """Return the number of rows loaded, or the reason why the load failed, or None if there is no such bucket."""
        try:
            manifest = finished_receipt(store, bucket)
            return load(tables, wanted[bucket.stream], store, manifest, force_key) if manifest.version else None
        except (LoadError, *DAMAGE) as failure:
            return str(failure)

    results = map_with_progress("partitions loaded", reload, buckets)
    if failures := [result for result in results if isinstance(result, str)]:
        raise not_loaded(failures)
    rows = [result for result in results if isinstance(result, int)]
    print(f"{len(rows)} {plural(len(rows), 'partition')} loaded, {sum(rows)} {plural(sum(rows), 'row')}")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
