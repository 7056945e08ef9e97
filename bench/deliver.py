"""Measures deliver beside the textbook pipeline and a bare loop: the same messages, one run, in turns.

Each contender has a process of its own, so that none pays for what another left in memory, and nothing is timed that did not
write every event. The rates also go to bench/latest.json.
"""

from __future__ import annotations

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
from rich.console import Console
from rich.table import Table

from bench.contenders import CONTENDERS, STEPS
from bench.events import messages
from local.pubsub.broker import Broker
from publisher.progress import progress
from schemas.envelope import EVENT_ID

EVENTS = 200_000
ROUNDS = 3
TOPIC = "projects/local-bench/topics/audit"
TABLE_WIDTH = 120
LATEST = Path(__file__).parent / "latest.json"


@dataclass
class Timings:
    """Seconds of each round for one event, which are those of starting up, and for all; and the most memory ever used."""

    one: list[float] = field(default_factory=list)
    all: list[float] = field(default_factory=list)
    peak_mb: float = 0.0


@dataclass(frozen=True)
class Measured:
    seconds: float
    peak_mb: float


def measure(name: str, events: int) -> Measured:
    """Runs a contender or step in this process, on one core where the system can say so.

    RuntimeError when a contender did not write exactly the events it was given.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    expected = sorted(message.attributes[EVENT_ID] for message in messages(events))
    # The input stays: without this the collector would walk through all of it again and again, at each contender's cost.
    gc.collect()
    gc.freeze()
    with TemporaryDirectory() as folder:
        begin = time.perf_counter()
        {**CONTENDERS, **STEPS}[name](events, Path(folder), TOPIC)
        seconds = time.perf_counter() - begin
        if name in CONTENDERS and written_ids(Path(folder)) != expected:
            raise RuntimeError(f"{name} did not write each of {events} events once: its time would mean nothing")
    # Linux counts in KiB, macOS in bytes.
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return Measured(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit)


def written_ids(folder: Path) -> list[str]:
    """The ids in all Avro files below the folder, sorted."""
    ids = []
    for path in folder.rglob("*.avro"):
        with path.open("rb") as file:
            rows: Iterable[Any] = fastavro.reader(file)
            ids += [row[EVENT_ID] for row in rows]
    return sorted(ids)


def compare(events: int, console: Console) -> dict[str, Timings]:
    """Every contender and step in turn, as often as there are rounds. The order of the result is that of the table."""
    names = [*CONTENDERS, *STEPS]
    timings = {name: Timings() for name in names}
    with ExitStack() as stack:
        os.environ["PUBSUB_EMULATOR_HOST"] = stack.enter_context(Broker()).address
        with pubsub_v1.PublisherClient() as client:
            client.create_topic(name=TOPIC)
        spawn = get_context("spawn")
        processes = {name: stack.enter_context(ProcessPoolExecutor(1, mp_context=spawn)) for name in names}
        report_progress = stack.enter_context(progress("measured", len(names) * (ROUNDS + 1), console))
        done = 0
        for round_number in range(ROUNDS + 1):
            for name, process in processes.items():
                single = process.submit(measure, name, 1).result()
                if round_number:  # the one before the first loads modules, and is not counted
                    whole = process.submit(measure, name, events).result()
                    timings[name].one.append(single.seconds)
                    timings[name].all.append(whole.seconds)
                    timings[name].peak_mb = whole.peak_mb
                done += 1
                report_progress(done)
    return timings


def summary_table(events: int, timings: Mapping[str, Timings]) -> Table:
    """The table that is printed."""
    cores = "one core" if hasattr(os, "sched_setaffinity") else f"{os.cpu_count()} cores"
    machine = f"{platform.system()} {platform.machine()}, {cores}, Python {platform.python_version()}"
    table = Table(title=f"{events:,} events, {ROUNDS} rounds; {machine}")
    table.add_column("", no_wrap=True)
    for header in ("events/s, median", "events/s, best", "of textbook", "of bare loop", "start-up", "peak memory"):
        table.add_column(header, justify="right")
    rate = {name: events / median(timing.all) for name, timing in timings.items()}
    for name, timing in timings.items():
        if name == next(iter(STEPS)):
            table.add_section()
        ratios = [f"{rate[name] / rate[other]:.2f}" if name in CONTENDERS else "" for other in ("textbook", "bare loop")]
        best = f"{events / min(timing.all):,.0f}"
        table.add_row(name, f"{rate[name]:,.0f}", best, *ratios, f"{median(timing.one):.2f} s", f"{timing.peak_mb:,.0f} MB")
    return table


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, shows, keeps. Asserts nothing about time."""
    flags = argparse.ArgumentParser(prog="python -m bench.deliver", description=__doc__, allow_abbrev=False)
    flags.add_argument("--events", type=_number, default=EVENTS, help="how many each contender gets (default: %(default)s)")
    events: int = flags.parse_args(argv).events
    timings = compare(events, Console(stderr=True))
    # A terminal that is too narrow would cut the numbers.
    console = Console(highlight=False, width=max(Console().width, TABLE_WIDTH))
    console.print(summary_table(events, timings))
    console.print("Start-up is a whole run with one event; the rates include it. What is compared: docs/benchmark.md")
    rates = {name: round(events / median(timing.all)) for name, timing in timings.items()}
    kept = {"deliver": rates["deliver, files"], "textbook": rates["textbook"], "bare_loop": rates["bare loop"]}
    LATEST.write_text(json.dumps(kept) + "\n")
    return 0


def _number(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
