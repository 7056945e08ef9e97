"""reload: loads the table partitions of some hours anew from the files that their manifests list.

For tables that were dropped or spoiled, or whose files had to be restored: when the audit says that a table does not hold what
the files hold. Takes no message, counts nothing, and may be repeated. Exit status 2 when some partition could not be loaded.
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
from pipelines.arguments import hours
from pipelines.command import UserError, run_main
from pipelines.progress import map_with_progress
from schemas.buckets import HOUR, Bucket
from schemas.registry.contracts import DEFAULT_FOLDER, load_contracts
from schemas.tables import tables_of
from storage.buckets.manifest_store import DAMAGE, finished_receipt
from storage.open import open_store, open_tables
from storage.tables.base import LoadError
from transforms.clocks import new_id
from transforms.load.load import load, not_loaded


def parser() -> argparse.ArgumentParser:
    """The command line."""
    flags = argparse.ArgumentParser(
        prog="python -m pipelines.reload", description=__doc__, formatter_class=ParagraphFormatter, allow_abbrev=False
    )
    flags.add_argument("--storage", required=True, help="the folder or gs://bucket[/prefix] that deliver writes to")
    flags.add_argument("--tables", required=True, help="the FILE.duckdb or bigquery://project.dataset that deliver loads")
    flags.add_argument(
        "--hours", required=True, type=hours, help="which partitions, FROM..TO as 2026-01-31T00..2026-01-31T23, both included"
    )
    flags.add_argument("--type", help="only this event type, or dead_letters (default: all)")
    flags.add_argument("--contracts", type=Path, default=DEFAULT_FOLDER, help="as for deliver (default: the shipped)")
    return flags


def main(argv: Sequence[str]) -> int:
    """Loads them, and tells how many rows that were. Raises what `run_main` tells the user."""
    flags = parser().parse_args(argv)
    wanted = tables_of(load_contracts(flags.contracts))
    if flags.type is not None:
        if flags.type not in wanted:
            raise UserError(f"--type={flags.type} is none of {', '.join(wanted)}")
        wanted = {flags.type: wanted[flags.type]}
    store, tables = open_store(flags.storage), open_tables(flags.tables)
    store.check_writable()
    tables.check_writable(store)
    map_with_progress("tables checked", tables.ensure, list(wanted.values()))
    first, last = flags.hours
    asked = [Bucket(stream, first + number * HOUR) for stream in wanted for number in range((last - first) // HOUR + 1)]
    again = new_id()

    def reload(bucket: Bucket) -> int | str | None:
        """The rows loaded, why they were not, or None where there is no such bucket."""
        try:
            manifest = finished_receipt(store, bucket)
            return load(tables, wanted[bucket.stream], store, manifest, again) if manifest.version else None
        except (LoadError, *DAMAGE) as failure:
            return str(failure)

    results = map_with_progress("partitions loaded", reload, asked)
    if failures := [result for result in results if isinstance(result, str)]:
        raise not_loaded(failures)
    rows = [result for result in results if isinstance(result, int)]
    print(f"{len(rows)} partitions loaded, {sum(rows)} rows")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
