"""Flags that several commands share, and the types of their values."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from schemas.buckets import FIRST_HOUR, HOUR, LAST_HOUR
from schemas.registry.contracts import DEFAULT_FOLDER


def add_stores(flags: argparse.ArgumentParser) -> None:
    """Add the flags for the sinks, the contracts and the settings of the graph, which do not depend on its source."""
    flags.add_argument("--storage", required=True, help="object store for the hourly files: a folder, or gs://bucket[/prefix]")
    flags.add_argument("--tables", required=True, help="table store: FILE.duckdb, or bigquery://project.dataset")
    flags.add_argument(
        "--audit_topic",
        required=True,
        type=resource("topics"),
        help="Pub/Sub topic that the numbers and fingerprints of event ids are published to, for the audit: "
        "projects/PROJECT/topics/NAME",
    )
    flags.add_argument(
        "--contracts",
        type=Path,
        default=DEFAULT_FOLDER,
        help="folder of the contracts of all event types that this run delivers (default: the contracts in the package)",
    )
    add_settings(flags)


def add_settings(flags: argparse.ArgumentParser) -> None:
    """Add the flags that decide which hour an event belongs to, and whether it is a duplicate."""
    flags.add_argument(
        "--allowed_lateness",
        type=duration,
        default=timedelta(days=7),
        help="how long after the end of its hour an event may be published and still belong to it; a later one goes to the "
        "hour of its publish time (default: 7d)",
    )
    flags.add_argument(
        "--dedup_horizon",
        type=horizon,
        default=timedelta(hours=24),
        help="treat an event as a duplicate if an event of the same type and id was delivered whose time of receipt is less "
        "than this before or after its own (default: 24h; 1h to 31d)",
    )


LONGEST_DURATION = timedelta(days=36_500)
"""A century: longer than the age of any event, and still a valid offset from today's date."""


LONGEST_HORIZON = timedelta(days=31)
"""The longest time for which Pub/Sub retains a message."""


MAX_HOURS = 24 * 366
"""Maximum length of --hours."""


_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def duration(text: str) -> timedelta:
    """Parse a number and its unit, such as 90s, 15m, 36h or 7d."""
    match = re.fullmatch(r"(\d+)([smhd])", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration such as 90s, 15m, 36h or 7d")
    try:
        value = timedelta(**{_UNITS[match[2]]: int(match[1])})
    except OverflowError:
        value = timedelta.max
    if value > LONGEST_DURATION:
        raise argparse.ArgumentTypeError(f"{text!r} is longer than {LONGEST_DURATION.days}d")
    return value


def horizon(text: str) -> timedelta:
    """Parse a duration from 1h to 31d. A shorter one would have no effect: a bucket, which is an hour, has no duplicates."""
    value = duration(text)
    if not HOUR <= value <= LONGEST_HORIZON:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 1h and {LONGEST_HORIZON.days}d")
    return value


def hours(text: str) -> tuple[datetime, datetime]:
    """Parse FROM..TO, two UTC hours such as 2026-01-31T09. Return the starts of both, which are included."""
    try:
        first, last = (datetime.strptime(part, "%Y-%m-%dT%H").replace(tzinfo=UTC) for part in text.split(".."))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form 2026-01-31T00..2026-01-31T23") from None
    if first < FIRST_HOUR or last > LAST_HOUR:
        raise argparse.ArgumentTypeError(f"{text!r} is not within {FIRST_HOUR:%Y-%m-%dT%H}..{LAST_HOUR:%Y-%m-%dT%H}")
    if last < first:
        raise argparse.ArgumentTypeError(f"{text!r} ends before it begins")
    if (last - first) // HOUR >= MAX_HOURS:
        raise argparse.ArgumentTypeError(f"{text!r} has more than {MAX_HOURS} hours, which are a leap year")
    return first, last


def resource(kind: str) -> Callable[[str], str]:
    """Return a parser of projects/PROJECT/<kind>/NAME. kind: topics or subscriptions."""

    def read(text: str) -> str:
        if not re.fullmatch(rf"projects/[a-z][a-z0-9:.-]+/{kind}/[A-Za-z][\w.~+%-]{{2,254}}", text):
            raise argparse.ArgumentTypeError(f"{text!r} is not of the form projects/PROJECT/{kind}/NAME")
        return text

    return read
