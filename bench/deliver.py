"""Measure the throughput of deliver, and compare it with the textbook pipeline and a bare loop.

All contenders process the same messages, in turns. Each has its own process, so that no contender is slowed down by the
memory of another. The command fails if a contender did not write every event. The rates are also written to
bench/latest.json.
"""

from __future__ import annotations

if __name__ == "__main__":
    from cli.interrupts import end_in_one_line, raise_interrupts

    end_in_one_line()
elif __name__ == "__mp_main__":
    import signal

    # A contender's process gets the terminal's Ctrl-C too; it ends without a word.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import gc
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import fastavro
from google.cloud import pubsub_v1
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from bench.contenders import CONTENDERS, STEPS
from bench.events import messages
from cli.command import CommandParser, exit_status_of
from cli.progress import progress_bar
from local.pubsub.broker import Broker
from schemas.envelope import EVENT_ID

EVENTS = 200_000
ROUNDS = 3
TOPIC = "projects/local-bench/topics/audit"
WIDTH = 80
"""Columns that the table fits, as a terminal has by default."""
LATEST = Path(__file__).parent / "latest.json"


@dataclass
class Timings:
    """Measurements of a contender or step in all rounds."""

    one_event: list[float] = field(default_factory=list)
    """Seconds per round for one event: the start-up time."""

    all_events: list[float] = field(default_factory=list)
    """Seconds per round for all events, start-up included."""

    peak_mb: float = 0.0
    """Peak memory of the process in MiB, over all rounds."""


@dataclass(frozen=True)
class Measurement:
    """Time and memory of one run."""

    seconds: float

    peak_mb: float
    """Peak memory of the process in MiB since its start."""


def measure(name: str, events: int) -> Measurement:
    """Run a contender or step in this process, on one core if the operating system allows it.

    Args:
        name: A key of CONTENDERS or STEPS.
        events: The number of events.

    Raises:
        RuntimeError: The contender did not write each event exactly once.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    expected = sorted(message.attributes[EVENT_ID] for message in messages(events))
    # The messages stay in memory. Without freeze, the garbage collector would traverse them again and again during the run.
    gc.collect()
    gc.freeze()
    with TemporaryDirectory() as folder:
        begin = time.perf_counter()
        {**CONTENDERS, **STEPS}[name](events, Path(folder), TOPIC)
        seconds = time.perf_counter() - begin
        if name in CONTENDERS and written_ids(Path(folder)) != expected:
            raise RuntimeError(f"can't compare {name}: it did not write each of {events} events exactly once")
    # The unit of ru_maxrss is KiB on Linux, and bytes on macOS.
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return Measurement(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit)


def written_ids(folder: Path) -> list[str]:
    """Return the event ids in all Avro files below a folder, sorted."""
    ids = []
    for path in folder.rglob("*.avro"):
        with path.open("rb") as file:
            rows: Iterable[Any] = fastavro.reader(file)
            ids += [row[EVENT_ID] for row in rows]
    return sorted(ids)


def compare(events: int, console: Console) -> dict[str, Timings]:
    """Measure all contenders and steps in turns, ROUNDS times. The result has the order of the rows in the printed table."""
    names = [*CONTENDERS, *STEPS]
    timings = {name: Timings() for name in names}
    with ExitStack() as stack:
        os.environ["PUBSUB_EMULATOR_HOST"] = stack.enter_context(Broker()).address
        with pubsub_v1.PublisherClient() as client:
            client.create_topic(name=TOPIC)
        spawn = get_context("spawn")
        processes = {name: stack.enter_context(ProcessPoolExecutor(1, mp_context=spawn)) for name in names}
        report_progress = stack.enter_context(progress_bar("measured", len(names) * (ROUNDS + 1), console))
        measured = 0
        for round_number in range(ROUNDS + 1):
            for name, process in processes.items():
                one_event = process.submit(measure, name, 1).result()
                if round_number:  # Round 0 loads modules, and is not counted.
                    all_events = process.submit(measure, name, events).result()
                    timings[name].one_event.append(one_event.seconds)
                    timings[name].all_events.append(all_events.seconds)
                    timings[name].peak_mb = all_events.peak_mb
                measured += 1
                report_progress(measured)
    return timings


def summary_table(events: int, timings: Mapping[str, Timings]) -> Table:
    """Return the table of rates, ratios, start-up times and memory, one row per contender and step."""
    cores = "one core" if hasattr(os, "sched_setaffinity") else f"{os.cpu_count()} cores"
    machine = f"{platform.system()} {platform.machine()}, {cores}, Python {platform.python_version()}"
    title = f"{events:,} events, {ROUNDS} rounds; {machine}"
    table = Table(title=title, box=SIMPLE_HEAD, padding=0, show_edge=False)
    table.add_column("", no_wrap=True)
    headers = ("events/s\nmedian", "events/s\nbest", "of\ntextbook", "of bare\nloop", "start-up", "peak\nmemory")
    for header in headers:
        table.add_column(header, justify="right", no_wrap=True)
    rate = {name: events / median(timing.all_events) for name, timing in timings.items()}
    for name, timing in timings.items():
        if name == next(iter(STEPS)):
            table.add_section()
        ratios = [f"{rate[name] / rate[other]:.2f}" if name in CONTENDERS else "" for other in ("textbook", "bare loop")]
        best = f"{events / min(timing.all_events):,.0f}"
        start_up, memory = f"{median(timing.one_event):.2f} s", f"{timing.peak_mb:,.0f} MB"
        table.add_row(name, f"{rate[name]:,.0f}", best, *ratios, start_up, memory)
    return table


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark, print the table, and write the rates to bench/latest.json. No rate is required."""
    parser = CommandParser(prog="python -m bench.deliver", description=__doc__)
    parser.add_argument(
        "--events", type=_positive, default=EVENTS, help="number of events for each contender (default: %(default)s)"
    )
    events: int = parser.parse_args(argv).events
    timings = compare(events, Console(stderr=True))
    # In a narrower terminal rich would truncate the numbers.
    console = Console(highlight=False, width=max(Console().width, WIDTH))
    console.print(summary_table(events, timings))
    console.print("Start-up is a whole run with one event; the rates include it.")
    console.print("docs/benchmark.md describes the contenders.")
    rates = {name: round(events / median(timing.all_events)) for name, timing in timings.items()}
    latest = {"deliver": rates["deliver, files"], "textbook": rates["textbook"], "bare_loop": rates["bare loop"]}
    LATEST.write_text(json.dumps(latest) + "\n")
    return 0


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer of 1 or more")
    return int(text)


if __name__ == "__main__":
    raise_interrupts()  # so that the contenders' processes end too
    sys.exit(exit_status_of(main))
