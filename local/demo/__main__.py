"""Publish, deliver and audit real and simulated events, on this machine alone.

The input is 5,884 real events of flights and weather, and 20,000 simulated events of a music service with every kind of
fault, some of them late. The demo ends with a table, and with status 1 if the audit's verdicts differ from the input.
"""

from __future__ import annotations

if __name__ == "__main__":
    from cli.interrupts import end_in_one_line

    end_in_one_line()

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import chdir
from datetime import UTC, datetime
from pathlib import Path
from textwrap import wrap
from typing import Any

from rich.console import Console

from cli.command import CommandParser, UserError, exit_status_of
from local.demo.expected import differences, expected_results, flights_hours
from local.demo.summary import dead_letters_by_reason, late_by_type, read_verdicts, summary_table, unfinished
from local.pubsub.broker import Broker
from publisher.simulate import EVENT_TYPES
from schemas.buckets import HOUR, Bucket, hour_of
from schemas.envelope import format_time
from schemas.registry.contracts import DEFAULT_FOLDER

ROOT = Path(__file__).resolve().parents[2]
FLIGHTS = Path("tests/data/flights.ndjson.gz")
SEED, EVENTS, HOURS = 1, 20_000, 3
"""The simulated traffic. It is the same in every run, except for its hours, which are the last full ones."""

PROJECT = "projects/local-demo"
STORAGE, TABLES, VERDICTS = "storage", "tables.duckdb", "verdicts.json"
WIDTH = 80
"""Columns of a terminal by default, in which the table and the commands fit."""


class CommandRunner:
    """Runner of one command after the other. SIGINT and SIGTERM terminate the running command and are recorded."""

    def __init__(self) -> None:
        self.signals: list[int] = []
        """Numbers of the signals that were received."""
        self._running: subprocess.Popen[bytes] | None = None
        # The handler raises no exception, because that could occur after a command started and before it is in _running.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)

    def run(self, arguments: Sequence[str]) -> int:
        """Run a Python module with arguments, and return its exit status."""
        with subprocess.Popen([sys.executable, "-m", *arguments]) as self._running:  # noqa: S603 - our own commands
            if self.signals:
                self._running.terminate()
            return self._running.wait()

    def _on_signal(self, number: int, _: object) -> None:
        self.signals.append(number)
        if self._running:
            self._running.terminate()


def main(folder: Path = Path("demo")) -> int:
    """Run the demo in the checkout and leave its results in `folder`.

    Returns:
        The exit status: 0, or 1 if the audit's verdicts differ from the input, 2 if a step failed, 130 or 143 after a signal.
    """
    return exit_status_of(lambda: _demo(folder))


def _demo(folder: Path) -> int:
    runner = CommandRunner()
    started = time.monotonic()
    console = Console(highlight=False, soft_wrap=True)
    end = hour_of(datetime.now(UTC))
    topics = [f"{PROJECT}/topics/{name}" for name in ("flights", "music", "audit")]
    with chdir(ROOT), Broker(topics=topics) as broker:
        os.environ["PUBSUB_EMULATOR_HOST"] = broker.address
        prepare(folder, console)
        for title, accepted, command in commands(folder, end):
            console.print(f"[bold cyan]{title}[/]\n[dim]{shell_lines(['$ python -m', *command])}[/]")
            status = runner.run(command)
            if runner.signals:
                if status - 128 not in (signal.SIGINT, signal.SIGTERM):  # Otherwise the command has printed it.
                    print("interrupted", file=sys.stderr)
                return 128 + runner.signals[0]
            if status not in accepted:
                raise UserError(f"the step {title!r} failed with exit status {status}")
        verdicts = read_verdicts(folder / VERDICTS)
        mismatches = differences(verdicts, expected_results(FLIGHTS, SEED, EVENTS, HOURS, end))
        print_results(console, folder, verdicts, mismatches)
        print_next_steps(console, folder, end)
    outcome = (
        "[bold red]The audit's verdicts differ from the input.[/]"
        if mismatches
        else "[bold green]The audit's verdicts match the input.[/]"
    )
    console.print(f"{outcome} {time.monotonic() - started:.0f} s")
    return 1 if mismatches else 0


def prepare(folder: Path, console: Console) -> None:
    """Replace the results of an earlier run by an empty folder, and copy the contracts of each topic into it."""
    if folder.exists():
        console.print(f"[dim]replacing {folder}/ of an earlier run[/]")
        shutil.rmtree(folder)
    # Deliver closes the hours of all event types that it has contracts for. So each topic needs a folder of contracts.
    for contract in DEFAULT_FOLDER.iterdir():
        if contract.is_dir():
            shutil.copytree(
                contract, folder / "contracts" / ("music" if contract.name in EVENT_TYPES else "flights") / contract.name
            )


def commands(folder: Path, end: datetime) -> Sequence[tuple[str, tuple[int, ...], list[str]]]:
    """Return the steps of the demo: a title, the exit statuses that are no failure, and a Python module with arguments."""
    audit_topic = ["--audit_topic", f"{PROJECT}/topics/audit"]
    stores = ["--storage", str(folder / STORAGE), "--tables", str(folder / TABLES)]
    music = ["publisher", "simulate", "--topic", f"{PROJECT}/topics/music", *audit_topic]
    music += ["--seed", str(SEED), "--events", str(EVENTS), "--hours", str(HOURS), "--end", format_time(end)]
    deliver = ["pipelines.deliver", *stores, *audit_topic]
    deliver_music, deliver_flights = (
        [*deliver, "--subscription", f"{PROJECT}/subscriptions/{topic}", "--contracts", str(folder / "contracts" / topic)]
        for topic in ("music", "flights")
    )
    age = (end - flights_hours(FLIGHTS)[0]) // (24 * HOUR) + 1
    audit = [
        "pipelines.audit",
        "--subscription",
        f"{PROJECT}/subscriptions/audit",
        *stores,
        "--verdicts",
        str(folder / VERDICTS),
    ]
    return [
        (
            "Publish real events",
            (0,),
            ["publisher", "publish", str(FLIGHTS), "--topic", f"{PROJECT}/topics/flights", *audit_topic],
        ),
        ("Publish simulated events", (0,), [*music, "--part", "first"]),
        ("Deliver the real events, which are years old", (0,), [*deliver_flights, "--allowed_lateness", f"{age}d"]),
        ("Deliver the simulated events", (0,), deliver_music),
        ("Publish the late events, whose hours have closed", (0,), [*music, "--part", "second"]),
        ("Deliver the late events", (0,), deliver_music),
        # Status 1: a verdict is not COMPLETE. Comparing the verdicts with the input shows whether that is expected.
        ("Audit", (0, 1), audit),
    ]


def print_results(console: Console, folder: Path, verdicts: Sequence[dict[str, Any]], mismatches: Sequence[str]) -> None:
    """Print the table, incomplete buckets, late rows, dead letters, and the differences between verdicts and input."""
    console.print()
    # A narrower terminal wraps the lines. At its own width, rich would cut the numbers.
    Console(highlight=False, width=max(console.width, WIDTH)).print(summary_table(verdicts))
    console.print()
    for line in unfinished(verdicts):
        console.print(line)
    console.print("late, delivered after their hour had closed:", *late_by_type(verdicts), sep="\n")
    console.print("dead letters by reason:", *dead_letters_by_reason(folder / TABLES), sep="\n")
    for line in mismatches:
        console.print(f"[bold red]differs from the input:[/] {line}")


def print_next_steps(console: Console, folder: Path, end: datetime) -> None:
    """Print the paths of the results, and commands to try with them."""
    hour, sql = end - HOUR, f".venv/bin/python -m local.sql {folder / TABLES}"
    console.print(f"\nFiles and manifests: {folder / STORAGE}/\nTables: {folder / TABLES}\nVerdicts: {folder / VERDICTS}")
    console.print(f"""Try next:
  {sql} "
    SELECT event_id, track.title, played_ms FROM track_played
    WHERE received_at >= '{format_time(hour)}' LIMIT 5"
  {sql} "
    SELECT hour, status, published, in_files FROM verdicts
    WHERE event_type = 'flight_departed' ORDER BY hour" --format csv
  cat {folder / STORAGE / Bucket("track_played", hour).manifest_name}
""")


def shell_lines(words: Sequence[str]) -> str:
    """Return a command as shell input with lines of at most WIDTH columns. A flag and its value are on one line."""
    bound = re.sub(r"( --\w+) (?!-)", "\\1\0", " ".join(words))
    lines = wrap(bound, WIDTH - 2, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    return " \\\n".join(lines).replace("\0", " ")


if __name__ == "__main__":
    CommandParser(prog="python -m local.demo", description=__doc__).parse_args()
    sys.exit(main())
