"""A SQL query on a DuckDB file, shown as a table."""

from __future__ import annotations

if __name__ == "__main__":
    from cli.interrupts import end_in_one_line

    end_in_one_line()

import argparse
import sys
from pathlib import Path

import duckdb
from rich.console import Console
from rich.table import Table


def main() -> int:
    """Runs one query, which can't change anything."""
    parser = argparse.ArgumentParser(prog="python -m local.sql", description=__doc__)
    parser.add_argument("file", type=Path, metavar="FILE.duckdb")
    parser.add_argument("query", help='for example "SELECT event_type, hour, status FROM verdicts ORDER BY hour DESC LIMIT 20"')
    flags = parser.parse_args()
    if not flags.file.exists():
        print(f"error: {flags.file} does not exist; `make demo` makes one", file=sys.stderr)
        return 2
    try:
        with duckdb.connect(flags.file, read_only=True) as db:
            db.execute("SET TimeZone = 'UTC'")
            if not db.extract_statements(flags.query):
                print("error: the query is empty", file=sys.stderr)
                return 2
            answer = db.execute(flags.query)
            columns, rows = [column[0] for column in answer.description or []], answer.fetchall()
    except duckdb.Error as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    table = Table(*columns)
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row))
    # What looks like rich's markup in the data is data.
    Console(highlight=False, markup=False, emoji=False).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
