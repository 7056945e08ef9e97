"""Publish a file of events, or simulated traffic, to Pub/Sub.

Exit status: 0 if all events were published and reported; 1 if some were not; 2 if publishing could not start, or the file can't
be read to its end; 130 or 143 if a signal interrupted it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import product
from pathlib import Path

from rich.console import Console

from cli.command import CommandParser, exit_status_of
from cli.progress import progress_bar
from publisher.client import EventPublisher
from publisher.errors import PublisherError
from publisher.event_file import OPTIONAL, REQUIRED, Line, parse_line, read_lines
from publisher.simulate import EVENT_TYPES, hours_of, simulate
from schemas.buckets import HOUR, hour_of
from schemas.envelope import format_time, parse_time
from schemas.errors import plural, with_list

_STATUSES = (__doc__ or "").strip().rpartition("\n\n")[2]
"""The exit statuses, for the help of each command."""
_FILE_RULES = (
    f"An object has {' and '.join(sorted(REQUIRED))}, and may have {', '.join(sorted(OPTIONAL))}. "
    "Lines that can't be published are written to FILE.failed.ndjson."
)
_TRAFFIC = (
    "It has duplicates, dead letters and late events, as real traffic does. "
    "Equal values of --seed, --events, --hours and --end make equal traffic."
)

_PARTS = {"first": (1,), "second": (2,), "all": (1, 2)}
_ERRORS_SHOWN = 10

EARLIEST_YEAR = 1970

MAX_HOURS = 24 * 366
"""Empty hours of a file that spans more hours are not reported: one wrong year would cause millions of reports."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status."""
    return exit_status_of(lambda: _publish(argv), interrupted="interrupted: not all events were published")


def _publish(argv: Sequence[str] | None) -> int:
    console = Console(stderr=True)
    arguments = _parser().parse_args(argv)
    return publish_file(arguments, console) if arguments.command == "publish" else publish_simulated(arguments, console)


def publish_file(arguments: argparse.Namespace, console: Console) -> int:
    """Publish the lines of a file, and write those that failed to `<file>.failed.ndjson`.

    If reading ends early, by an error or a signal, the events read so far are published and reported before it is raised.
    """
    path: Path = arguments.file
    try:
        size = path.stat().st_size
    except OSError as error:
        raise PublisherError(f"{path} can't be read: {error.strerror}") from None
    broken: list[tuple[Line, str]] = []
    end: PublisherError | KeyboardInterrupt | None = None
    started = time.monotonic()
    with EventPublisher(arguments.topic, arguments.audit_topic) as publisher:
        publisher.check()
        seen: set[tuple[str, datetime | None]] = set()
        try:
            with progress_bar(f"publishing {path.name}", size, console) as show_done:
                for line in read_lines(path, show_done):
                    try:
                        event = parse_line(line.data)
                    except ValueError as error:
                        broken.append((line, str(error)))
                        continue
                    seen.add((event.event_type, event.received_at and hour_of(event.received_at)))
                    publisher.publish(**event._asdict(), source=line)
        except (PublisherError, KeyboardInterrupt) as error:
            end = error
        hours = _between({hour for _, hour in seen if hour is not None}, console)
        for event_type, hour in product({event_type for event_type, _ in seen}, hours):
            publisher.expect(event_type, hour)
    failures = publisher.failures
    broken += [(failed.event.source, failed.error) for failed in failures if isinstance(failed.event.source, Line)]
    broken.sort(key=lambda failure: failure[0].number)
    problems = [f"line {line.number}: {text}" for line, text in broken]
    failed_file = path.with_name(f"{path.name}.failed.ndjson")
    # Before anything is printed: standard output may be a full disk, or a pipe that its reader has closed.
    kept, message = _write_failed(failed_file, [line for line, _ in broken]) if broken else (0, "")
    status = max(kept, _summary(arguments, publisher, time.monotonic() - started, problems))
    if message:
        print(message, file=sys.stderr)
    if end:
        raise end
    return status


def publish_simulated(arguments: argparse.Namespace, console: Console) -> int:
    """Publish simulated traffic, or one part of it."""
    now = datetime.now(UTC)
    end: datetime = arguments.end or hour_of(now)
    if hour_of(end) != end or end > now or end.year < EARLIEST_YEAR:
        raise PublisherError(
            f"--end {format_time(end)} must be the start of an hour, in {EARLIEST_YEAR} or later, and not in the future"
        )
    parts = _PARTS[arguments.part]
    started = time.monotonic()
    with EventPublisher(arguments.topic, arguments.audit_topic) as publisher:
        publisher.check()
        with progress_bar("publishing simulated events", arguments.events, console) as show_done:
            for number, message in enumerate(simulate(arguments.seed, arguments.events, arguments.hours, end)):
                show_done(number)
                if message.part in parts:
                    publisher.publish(
                        message.event_type,
                        message.data,
                        event_id=message.event_id,
                        received_at=message.received_at,
                        sent_at=message.sent_at,
                        schema_version=message.schema_version,
                        content_type=message.content_type,
                    )
        for event_type, hour in product(EVENT_TYPES, hours_of(arguments.hours, end)):
            publisher.expect(event_type, hour)
    errors = [failure.error for failure in publisher.failures]
    return _summary(arguments, publisher, time.monotonic() - started, errors)


def _between(hours: set[datetime], console: Console) -> list[datetime]:
    """Return every hour from the first to the last one, both included; [] if they are more than MAX_HOURS."""
    if not hours:
        return []
    first, last = min(hours), max(hours)
    count = (last - first) // HOUR + 1
    if count > MAX_HOURS:
        console.print(f"the events are spread over {count:,} hours, so empty hours are not reported", highlight=False)
        return []
    return [first + HOUR * step for step in range(count)]


def _summary(arguments: argparse.Namespace, publisher: EventPublisher, seconds: float, errors: list[str]) -> int:
    """Print how many events and counts were published and how many were not, and return the exit status."""
    rate = publisher.acknowledged / max(seconds, 0.001)
    events = f"{publisher.acknowledged:,} {plural(publisher.acknowledged, 'event')}"
    print(f"published {events} to {arguments.topic} in {seconds:.1f} s ({rate:,.0f}/s)")
    if arguments.audit_topic is not None:
        print(f"reported {publisher.reported:,} {plural(publisher.reported, 'count')} to {arguments.audit_topic}")
    if errors:
        print(with_list(f"not published: {len(errors):,}", errors, _ERRORS_SHOWN), file=sys.stderr)
    if publisher.unreported:
        reason = publisher.unreported[0].error
        print(f"counts not reported to the audit: {len(publisher.unreported):,} ({reason})", file=sys.stderr)
    return 1 if errors or publisher.unreported else 0


def _write_failed(path: Path, lines: list[Line]) -> tuple[int, str]:
    """Write the failed lines unchanged. Return the exit status, and the line to print."""
    try:
        path.write_bytes(b"".join(line.data + b"\n" for line in lines))
    except OSError as error:
        return 2, f"error: the failed lines can't be written to {path}: {error.strerror}"
    return 1, f"the failed lines are in {path}. What to do: correct them, then publish that file"


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(prog="python -m publisher", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    common = CommandParser(add_help=False)
    common.add_argument("--topic", required=True, help="topic of the events: projects/PROJECT/topics/NAME")
    common.add_argument("--audit_topic", help="topic of the audit, for the counts of published events (default: no reports)")
    publish = commands.add_parser(
        "publish",
        parents=[common],
        help="publish a file with one JSON object per line",
        description=f"Publish a file with one JSON object per line. {_FILE_RULES}\n\n{_STATUSES}",
    )
    publish.add_argument("file", type=Path, metavar="FILE", help="FILE.ndjson or FILE.ndjson.gz")
    simulated = commands.add_parser(
        "simulate",
        parents=[common],
        help="publish simulated traffic of a music service",
        description=f"Publish simulated traffic of a music service. {_TRAFFIC}\n\n{_STATUSES}",
    )
    simulated.add_argument("--events", type=_positive, default=20_000, help="number of distinct events (default: %(default)s)")
    simulated.add_argument("--hours", type=_hours, default=3, help="number of full hours (default: %(default)s)")
    simulated.add_argument("--seed", type=int, default=1, help="seed of the random generator (default: %(default)s)")
    simulated.add_argument(
        "--end", type=_time, help="end of the last hour, for example 2026-01-31T09:00:00Z (default: start of the current hour)"
    )
    simulated.add_argument(
        "--part",
        choices=_PARTS,
        default="all",
        help="part of the traffic to publish; the second one has the events that are late (default: %(default)s)",
    )
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number


def _hours(text: str) -> int:
    number = _positive(text)
    if number > MAX_HOURS:
        raise argparse.ArgumentTypeError(f"{text} is more than {MAX_HOURS}, a year")
    return number


def _time(text: str) -> datetime:
    try:
        return parse_time(text)
    except (ValueError, OverflowError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is {error}") from None
