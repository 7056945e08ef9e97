"""The table of the demo with a row for each event type, and the lines below it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
from rich.box import SIMPLE_HEAD
from rich.table import Table

_NUMBERS = {
    "published": "published",
    "received": "received",
    "in_files": "in\nfiles",
    "in_table": "in\ntable",
    "duplicates": "dupli-\ncates",
    "dead_letters": "dead\nletters",
}
"""Columns of the verdicts, and their headers."""


def read_verdicts(file: Path) -> list[dict[str, Any]]:
    """Read the verdicts that the audit wrote."""
    verdicts: list[dict[str, Any]] = json.loads(file.read_text())
    return verdicts


def summary_table(verdicts: Sequence[dict[str, Any]]) -> Table:
    """Return a table of at most 80 columns, with the events and the COMPLETE buckets of each event type, and the totals."""
    table = Table("event type", *_NUMBERS.values(), "buckets\nCOMPLETE", box=SIMPLE_HEAD, padding=0, show_edge=False)
    for column in table.columns:
        column.no_wrap = True
        column.justify = "left" if column is table.columns[0] else "right"
    for event_type in sorted({row["event_type"] for row in verdicts}):
        rows = [row for row in verdicts if row["event_type"] == event_type]
        table.add_row(*_cells(event_type or "(no type)", rows))
    table.add_section()
    table.add_row(*_cells("all", verdicts))
    return table


def _cells(name: str, rows: Sequence[dict[str, Any]]) -> list[str]:
    complete = sum(row["status"] == "COMPLETE" for row in rows)
    numbers = [f"{sum(row[key] or 0 for row in rows):,}" for key in _NUMBERS]
    colour = "green" if complete == len(rows) else "bold red"
    return [name, *numbers, f"[{colour}]{complete} of {len(rows)}[/]"]


def late_by_type(verdicts: Sequence[dict[str, Any]]) -> list[str]:
    """Return a line with the number of late rows of each event type that has some, the largest first."""
    late = Counter[str]()
    for row in verdicts:
        late[row["event_type"]] += row["late"] or 0
    return [f"{number:>6}  {event_type}" for event_type, number in late.most_common() if number]


def unfinished(verdicts: Sequence[dict[str, Any]]) -> list[str]:
    """Return a line with the findings of each bucket that is not COMPLETE."""
    return [
        f"{row['event_type'] or '(no type)'} {row['hour']}: {row['status']}: {'; '.join(row['findings'])}"
        for row in verdicts
        if row["status"] != "COMPLETE"
    ]


def dead_letters_by_reason(tables: Path) -> list[str]:
    """Return a line for each reason in the table of dead letters, the most frequent first."""
    with duckdb.connect(tables, read_only=True) as db:
        rows = db.execute("SELECT reason, count(*) FROM dead_letters GROUP BY reason ORDER BY count(*) DESC, reason").fetchall()
    return [f"{number:>6}  {reason}" for reason, number in rows]
