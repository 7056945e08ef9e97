"""Argument types and flags the commands share"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from schemas.buckets import FIRST_HOUR, HOUR, LAST_HOUR
from schemas.registry.contracts import DEFAULT_FOLDER


def add_stores(flags: argparse.ArgumentParser) -> None:
    """The flags that say what the graph is built with, wherever its events come from."""
    flags.add_argument("--storage", required=True, help="where the hourly files go: a folder, or gs://bucket[/prefix]")
    flags.add_argument("--tables", required=True, help="where the tables are: FILE.duckdb, or bigquery://project.dataset")
    flags.add_argument("--audit_topic", required=True, type=resource("topics"), help="where the counts go")
    flags.add_argument(
        "--contracts", type=Path, default=DEFAULT_FOLDER, help="contracts that this run serves (default: the shipped)"
    )
    add_settings(flags)


def add_settings(flags: argparse.ArgumentParser) -> None:
    """The flags that decide which hour an event belongs to, and whether it is delivered already."""
    flags.add_argument(
        "--allowed_lateness",
        type=duration,
        default=timedelta(days=7),
        help="an event that comes later than this after its hour goes into the hour of its publishing (default: 7d)",
    )
    flags.add_argument(
        "--dedup_horizon",
        type=horizon,
        default=timedelta(hours=24),
        help="an event that was delivered is not delivered again for so long, by its type and id (default: 24h; at least 1h)",
    )


LONGEST_DURATION = timedelta(days=36_500)
"""A century: more than any event's age, and no more than dates can be counted back by."""


LONGEST_HORIZON = timedelta(days=31)
"""As long as Pub/Sub keeps a message at most."""


MAX_HOURS = 24 * 366
"""The most hours that one command is asked about."""


_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def duration(text: str) -> timedelta:
    """Reads 90s, 15m, 36h or 7d."""
    match = re.fullmatch(r"(\d+)([smhd])", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration such as 90s, 15m, 36h or 7d")
    try:
        value = timedelta(**{_UNITS[match[2]]: int(match[1])})
    except OverflowError:
        value = timedelta.max
    if value > LONGEST_DURATION:
        raise argparse.ArgumentTypeError(f"{text!r} is more than {LONGEST_DURATION.days}d")
    return value


def horizon(text: str) -> timedelta:
    """Reads a duration of an hour or more: a bucket never holds an id twice, and is an hour."""
    value = duration(text)
    if not HOUR <= value <= LONGEST_HORIZON:
        raise argparse.ArgumentTypeError(f"{text!r} does not lie between 1h and {LONGEST_HORIZON.days}d")
    return value


def hours(text: str) -> tuple[datetime, datetime]:
    """Reads FROM..TO, two UTC hours as 2026-01-31T09, both included."""
    try:
        first, last = (datetime.strptime(part, "%Y-%m-%dT%H").replace(tzinfo=UTC) for part in text.split(".."))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form 2026-01-31T00..2026-01-31T23") from None
    if first < FIRST_HOUR or last > LAST_HOUR:
        raise argparse.ArgumentTypeError(f"{text!r} is not within {FIRST_HOUR:%Y-%m-%dT%H}..{LAST_HOUR:%Y-%m-%dT%H}")
    if last < first:
        raise argparse.ArgumentTypeError(f"{text!r} ends before it begins")
    if (last - first) // HOUR >= MAX_HOURS:
        raise argparse.ArgumentTypeError(f"{text!r} is more than {MAX_HOURS} hours, a leap year")
    return first, last


def resource(kind: str) -> Callable[[str], str]:
    """Reads projects/PROJECT/<kind>/NAME, where kind is topics or subscriptions."""

    def read(text: str) -> str:
        if not re.fullmatch(rf"projects/[a-z][a-z0-9:.-]+/{kind}/[A-Za-z][\w.~+%-]{{2,254}}", text):
            raise argparse.ArgumentTypeError(f"{text!r} is not of the form projects/PROJECT/{kind}/NAME")
        return text

    return read
