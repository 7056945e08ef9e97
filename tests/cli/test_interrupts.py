"""Ctrl-C while a command imports its libraries."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("schemas", "storage", "transforms", "audit", "pipelines", "publisher", "local", "templates", "bench")
MAIN = 'if __name__ == "__main__":'


def commands() -> list[str]:
    """Every module that is run by `python -m`."""
    files = [file for room in ROOMS for file in (ROOT / room).rglob("*.py") if MAIN in file.read_text()]
    return sorted(".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files)


RUN_INTERRUPTED = """
import os, runpy, signal, sys

class Interrupter:
    '''Interrupts the process at the import of one module.'''
    def find_spec(self, name, path=None, target=None):
        if name == AT:
            os.kill(os.getpid(), signal.SIGINT)

module, AT = sys.argv[1:3]
sys.argv = [module]
sys.meta_path.insert(0, Interrupter())
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


def run_interrupted(module: str, at: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", RUN_INTERRUPTED, module, at]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)


def test_commands__all_found() -> None:
    assert {"pipelines.deliver", "publisher.__main__", "local.sql", "local.pubsub.__main__", "bench.deliver"} <= set(commands())
    assert len(commands()) == 14


@pytest.mark.slow
@pytest.mark.parametrize("module", commands())
def test_end_in_one_line__first_import(module: str) -> None:
    """The first module that a command imports after its handler is `argparse`, or its own."""
    first = "publisher.cli" if module == "publisher.__main__" else "argparse"
    if module == "templates.deliver.main":
        first = "pipelines.deliver"
    done = run_interrupted(module, first)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "library"),
    [
        ("pipelines.deliver", "apache_beam"),
        ("pipelines.audit", "google.cloud.pubsub_v1"),
        ("publisher.__main__", "google.cloud.pubsub_v1"),
        ("local.demo.__main__", "local.pubsub.broker"),
        ("local.sql", "duckdb"),
        ("templates.render", "google.cloud.dataflow_v1beta3"),
        ("pipelines.check_contracts", "schemas.registry.contracts"),
    ],
)
def test_end_in_one_line__library_import(module: str, library: str) -> None:
    done = run_interrupted(module, library)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)


def test_end_in_one_line__signal_ignored() -> None:
    """A shell without job control starts background programs with SIGINT ignored, and they must stay so."""
    done = run_python(
        "import os, signal; signal.signal(signal.SIGINT, signal.SIG_IGN); from cli.interrupts import end_in_one_line; "
        "end_in_one_line(); os.kill(os.getpid(), signal.SIGINT); print('goes on')"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "goes on\n", "")


def test_end_in_one_line__caught_exceptions() -> None:
    """A library that catches every exception of its imports doesn't keep the process alive."""
    done = run_python(
        "import os, signal; from cli.interrupts import end_in_one_line; end_in_one_line()\n"
        "try: os.kill(os.getpid(), signal.SIGINT)\n"
        "except BaseException: pass\n"
        "print('goes on')"
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def test_raise_interrupts__keyboard_interrupt() -> None:
    done = run_python(
        "import os, signal; from cli.interrupts import *; end_in_one_line(); raise_interrupts()\n"
        "for number in (signal.SIGINT, signal.SIGTERM):\n"
        "    try: os.kill(os.getpid(), number)\n"
        "    except KeyboardInterrupt as interrupt: print(interrupt.status)"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "130\n143\n", "")


def test_raise_interrupts__signal_ignored() -> None:
    done = run_python(
        "import os, signal; signal.signal(signal.SIGINT, signal.SIG_IGN); from cli.interrupts import *; "
        "end_in_one_line(); raise_interrupts(); os.kill(os.getpid(), signal.SIGINT); print('goes on')"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "goes on\n", "")


TAKEN_OVER = """
from cli.interrupts import end_in_one_line
end_in_one_line()
import os, signal, sys, time
from pipelines.command import run_main

def main(_):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)
    return 0

sys.exit(run_main(main))
"""


def test_end_in_one_line__run_main_takes_over() -> None:
    done = run_python(TAKEN_OVER)
    assert done.returncode == 128 + signal.SIGINT
    assert done.stderr == "interrupted: no undelivered message was acknowledged; run the command again\n"
