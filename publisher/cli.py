"""The command line: publishes a file of events, or simulated traffic.

Exits with 0 when all is published and reported, 1 when something is not, 2 when nothing could be started.
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

from cli.progress import progress_bar
from publisher.client import EventPublisher
from publisher.errors import PublisherError
from publisher.event_file import Line, parse_line, read_lines
from publisher.simulate import EVENT_TYPES, hours_of, simulate
from schemas.buckets import HOUR, hour_of
from schemas.envelope import format_time, parse_time
from schemas.registry.contracts import ContractError

_ROUNDS = {"first": (1,), "second": (2,), "all": (1, 2)}
_ERRORS_SHOWN = 10

MAX_HOURS = 24 * 366
"""A file whose events lie further apart gets no reports of its empty hours: one wrong year would make millions."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code."""
    console = Console(stderr=True)
    try:
        arguments = _parser().parse_args(argv)
        return publish_file(arguments, console) if arguments.command == "publish" else publish_simulated(arguments, console)
    except (PublisherError, ContractError) as error:
        return _complain(f"error: {error}", 2)
    except KeyboardInterrupt:
        return _complain("error: stopped by hand", 130)


def publish_file(arguments: argparse.Namespace, console: Console) -> int:
    """Publishes the lines of a file; those that can't be go to `<file>.failed.ndjson`.

    Raises PublisherError before anything is published.
    """
    path: Path = arguments.file
    try:
        size = path.stat().st_size
    except OSError as error:
        raise PublisherError(f"{path} can't be read: {error.strerror}.") from None
    broken: list[tuple[Line, str]] = []
    end = ""
    started = time.monotonic()
    with EventPublisher(arguments.topic, arguments.audit_topic) as publisher:
        publisher.check()
        seen: set[tuple[str, datetime | None]] = set()
        try:
            with progress_bar(f"publishing {path.name}", size, console) as tell:
                for line in read_lines(path, tell):
                    try:
                        event = parse_line(line.data)
                    except ValueError as error:
                        broken.append((line, str(error)))
                        continue
                    seen.add((event.event_type, event.received_at and hour_of(event.received_at)))
                    publisher.publish(**event._asdict(), source=line)
        except PublisherError as error:
            end = str(error)
        except KeyboardInterrupt:
            end = "stopped by hand; the rest of the file was not published."
        hours = _between({hour for _, hour in seen if hour is not None}, console)
        for event_type, hour in product({event_type for event_type, _ in seen}, hours):
            publisher.expect(event_type, hour)
    failures = publisher.failures
    broken += [(failed.event.source, failed.error) for failed in failures if isinstance(failed.event.source, Line)]
    broken.sort(key=lambda one: one[0].number)
    code = _summary(arguments, publisher, time.monotonic() - started, [f"line {line.number}: {text}" for line, text in broken])
    if broken:
        code = _keep(path.with_name(f"{path.name}.failed.ndjson"), [line for line, _ in broken])
    return _complain(f"error: {end}", 1) if end else code


def publish_simulated(arguments: argparse.Namespace, console: Console) -> int:
    """Publishes simulated traffic, or a part of it. Raises PublisherError before it starts."""
    now = datetime.now(UTC)
    end: datetime = arguments.end or hour_of(now)
    if hour_of(end) != end or end > now:
        raise PublisherError(f"--end {format_time(end)} must be the start of an hour, and not in the future.")
    rounds = _ROUNDS[arguments.part]
    started = time.monotonic()
    with EventPublisher(arguments.topic, arguments.audit_topic) as publisher:
        publisher.check()
        with progress_bar("publishing simulated events", arguments.events, console) as tell:
            for number, message in enumerate(simulate(arguments.seed, arguments.events, arguments.hours, end)):
                tell(number)
                if message.round in rounds:
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
    """Every hour from the first to the last, both included."""
    if not hours:
        return []
    first, last = min(hours), max(hours)
    count = (last - first) // HOUR + 1
    if count > MAX_HOURS:
        console.print(f"the events lie {count:,} hours apart: empty hours are not reported", highlight=False)
        return []
    return [first + HOUR * step for step in range(count)]


def _summary(arguments: argparse.Namespace, publisher: EventPublisher, seconds: float, errors: list[str]) -> int:
    """Prints what was done and what was not, and returns the exit code."""
    rate = publisher.acknowledged / max(seconds, 0.001)
    print(f"published {publisher.acknowledged:,} events to {arguments.topic} in {seconds:.1f} s ({rate:,.0f}/s)")
    if arguments.audit_topic is not None:
        print(f"reported {publisher.reported:,} counts to {arguments.audit_topic}")
    code = 0
    if errors:
        shown = errors[:_ERRORS_SHOWN] + ["..."] * (len(errors) > _ERRORS_SHOWN)
        code = _complain("\n  ".join([f"error: not published: {len(errors):,}", *shown]), 1)
    if publisher.unreported:
        reason = publisher.unreported[0].error
        code = _complain(f"error: counts not reported, which the audit will lack: {len(publisher.unreported):,} ({reason})", 1)
    return code


def _keep(path: Path, lines: list[Line]) -> int:
    """Writes the lines that failed, as they were."""
    try:
        path.write_bytes(b"".join(line.data + b"\n" for line in lines))
    except OSError as error:
        return _complain(f"error: the lines that failed can't be written to {path}: {error.strerror}.", 1)
    return _complain(f"the lines that failed are in {path}: mend them, then publish that file", 1)


def _complain(text: str, code: int) -> int:
    print(text, file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m publisher", description="Publishes events to Pub/Sub.")
    commands = parser.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--topic", required=True, help="where to publish: projects/PROJECT/topics/NAME")
    common.add_argument("--audit_topic", help="where to report what was published, for the audit")
    publish = commands.add_parser("publish", parents=[common], help="publish a file, one JSON object a line")
    publish.add_argument("file", type=Path, metavar="FILE", help="FILE.ndjson or FILE.ndjson.gz")
    made_up = commands.add_parser("simulate", parents=[common], help="publish made-up traffic of a music service")
    made_up.add_argument("--events", type=_positive, default=20_000, help="how many distinct events (%(default)s)")
    made_up.add_argument("--hours", type=_positive, default=3, help="over how many full hours (%(default)s)")
    made_up.add_argument("--seed", type=int, default=1, help="equal seeds make equal traffic (%(default)s)")
    made_up.add_argument(
        "--end", type=_time, help="when the last hour ends, such as 2026-01-31T09:00:00Z (the present hour's start)"
    )
    made_up.add_argument("--part", choices=_ROUNDS, default="all", help="second: what is held back to come late (%(default)s)")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number


def _time(text: str) -> datetime:
    try:
        return parse_time(text)
    except (ValueError, OverflowError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is {error}") from None
