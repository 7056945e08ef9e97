"""Run one SQL query on a DuckDB file.

The default format is a table on a terminal, and CSV otherwise. A table omits columns and rows that do not fit the terminal.
Name columns, or use --format json, to see all columns of a wide table.

In CSV and JSON, timestamps are in UTC as in RFC 3339, and bytes are in base64. In CSV, a NULL is an empty field, an empty text
is "", and a nested value is JSON.
"""

from __future__ import annotations

if __name__ == "__main__":
    from cli.interrupts import end_in_one_line

    end_in_one_line()

import argparse
import json
import math
import signal
import sys
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from shutil import get_terminal_size
from typing import Any

import duckdb

from cli.command import CommandParser, UserError, exit_status_of
from schemas.envelope import format_time

TABLE, CSV, JSON = "table", "csv", "json"
ROWS_A_BATCH = 1000
"""Rows that are read from DuckDB at a time."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one query, which can't change the file, and return the exit status."""
    return exit_status_of(lambda: _query(argv))


def _query(argv: Sequence[str] | None) -> int:
    parser = _parser()
    flags = parser.parse_args(argv)
    if flags.query is None and sys.stdin.isatty():
        parser.error("no query: add one, or pipe it to the standard input")
    if not flags.file.exists():
        raise UserError(f"{flags.file} does not exist. What to do: give a DuckDB file; `make demo` creates demo/tables.duckdb")
    try:
        db = duckdb.connect(flags.file, read_only=True)
    except duckdb.Error as error:
        raise UserError(
            f"{_sentence(error)} What to do: give a DuckDB file, and end the program that writes to it, if any"
        ) from None
    try:
        with db:
            query = sys.stdin.read() if flags.query in (None, "-") else flags.query
            _check_single(db, query)
            db.execute("SET TimeZone = 'UTC'").fetchall()
            _WRITERS[flags.format or (TABLE if sys.stdout.isatty() else CSV)](db, query)
    except (duckdb.Error, ValueError) as error:
        raise UserError(f"{_sentence(error)} What to do: correct the query; the query SHOW TABLES lists the tables") from None
    return 0


def _check_single(db: duckdb.DuckDBPyConnection, query: str) -> None:
    """Raise UserError unless the text is one query."""
    count = len(db.extract_statements(query))
    if not count:
        raise UserError("the query is empty. What to do: pass one, for example SHOW TABLES")
    if count > 1:
        raise UserError(f"there are {count} queries in one. What to do: run them one by one")


def _sentence(error: Exception) -> str:
    """Return an error's message as a sentence on one line. DuckDB's excerpt of the query is replaced by a line number."""
    message, excerpt, query = str(error).partition("\n\nLINE ")
    text = " ".join(message.split())
    if excerpt:
        return f"{text} (line {query.partition(':')[0]} of the query)."
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(prog="python -m local.sql", description=__doc__)
    parser.add_argument("file", type=Path, metavar="FILE.duckdb")
    parser.add_argument(
        "query",
        metavar="QUERY",
        nargs="?",
        help="one SQL query; if it is missing or -, it is read from the standard input. For example: "
        '"SELECT event_type, hour, status FROM verdicts ORDER BY hour DESC LIMIT 20"',
    )
    parser.add_argument(
        "--format",
        choices=_WRITERS,
        help=f"{TABLE}: as much as fits the terminal; {CSV}: with a header; "
        f"{JSON}: an array with one object per row (default: {TABLE} on a terminal, else {CSV})",
    )
    return parser


def _write_table(db: duckdb.DuckDBPyConnection, query: str) -> None:
    relation = db.sql(query)
    if relation is not None:  # It is None for a statement without a result, such as SET.
        relation.show(max_width=get_terminal_size().columns)


def _write_csv(db: duckdb.DuckDBPyConnection, query: str) -> None:
    columns, rows = _run(db, query)
    print(",".join(_csv_field(name) for name, _ in columns))
    for row in rows:
        print(",".join(map(_csv_field, row)))


def _write_json(db: duckdb.DuckDBPyConnection, query: str) -> None:
    columns, rows = _run(db, query)
    names = [name for name, _ in columns]
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise UserError(f"several columns are named {', '.join(repeated)}. What to do: rename them with AS")
    documents = {name for name, column_type in columns if column_type == "JSON"}
    separator = "["
    for row in rows:
        record = {
            name: json.loads(value) if name in documents and value else _plain(value)
            for name, value in zip(names, row, strict=True)
        }
        print(separator, json.dumps(record, ensure_ascii=False, allow_nan=False), sep="\n", end="")
        separator = ","
    print("[]" if separator == "[" else "\n]")


_WRITERS: Mapping[str, Callable[[duckdb.DuckDBPyConnection, str], None]] = {
    TABLE: _write_table,
    CSV: _write_csv,
    JSON: _write_json,
}


def _run(db: duckdb.DuckDBPyConnection, query: str) -> tuple[Sequence[tuple[str, str]], Iterator[tuple[Any, ...]]]:
    """Return the names and types of the columns, and an iterator over the rows.

    The first rows are read before the return, so that most errors are raised before anything is printed.
    """
    result = db.execute(query)
    columns = [(name, str(column_type)) for name, column_type, *_ in result.description or []]
    first = result.fetchmany(ROWS_A_BATCH)
    return columns, _rows(result, first)


def _rows(result: duckdb.DuckDBPyConnection, batch: Sequence[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    while batch:
        yield from batch
        batch = result.fetchmany(ROWS_A_BATCH)


def _csv_field(value: object) -> str:
    plain = _plain(value)
    if plain is None:
        return ""
    text = plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False, allow_nan=False)
    return f'"{text.replace(chr(34), chr(34) * 2)}"' if not text or any(character in text for character in ',"\r\n') else text


def _plain(value: object) -> Any:
    """Convert a value to the types of JSON. A decimal becomes a text, so that it keeps its digits."""
    match value:
        case float():
            return value if math.isfinite(value) else {"inf": "Infinity", "-inf": "-Infinity"}.get(str(value), "NaN")
        case None | bool() | int() | str():
            return value
        case datetime():
            return format_time(value) if value.tzinfo else value.isoformat()
        case date() | time():
            return value.isoformat()
        case Decimal():
            return f"{value:f}"
        case bytes():
            return b64encode(value).decode()
        case Mapping():
            return {str(_plain(name)): _plain(field) for name, field in value.items()}
        case Iterable():
            return [_plain(item) for item in value]
        case _:
            return str(value)


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Ends silently if the reader closes the pipe, as `head` does.
    sys.exit(main())
