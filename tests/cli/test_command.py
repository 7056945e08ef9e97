"""Exit statuses of every command, by its entry point: 0 done, 1 done with something to report, 2 failed."""

from __future__ import annotations

import io
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from cli.command import CommandParser, UserError, exit_status_of, report_error
from cli.interrupts import Interrupted
from schemas.errors import EventDeliveryError
from tests.support.contracts import write_contract

TOPIC, SUBSCRIPTION = "projects/some-project/topics/events", "projects/some-project/subscriptions/events"
HOURS = "--hours=2026-01-31T00..2026-01-31T01"
STORES = ["--storage={}/storage", "--tables={}/tables.duckdb"]
COMMANDS = (
    *(f"pipelines.{name}" for name in ("deliver", "audit", "replay", "backfill", "missing", "reload")),
    *("publisher", "local.pubsub", "local.sql", "local.demo", "pipelines.check_contracts", "templates.render", "bench.deliver"),
)


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Callable[..., tuple[Any, str]]]:
    """Run a command as `python -m` does, in an empty folder. Returns its exit status and standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os._exit", sys.exit)  # the process is this test's
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])

    def call(module: str, *arguments: str) -> tuple[Any, str]:
        if not hasattr(sys.modules.get(module), "__path__"):
            monkeypatch.delitem(sys.modules, module, raising=False)  # else runpy warns of it
        monkeypatch.setattr(sys, "argv", [module, *(argument.format(tmp_path) for argument in arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            runpy.run_module(module, run_name="__main__", alter_sys=False)
        return end.value.code, capsys.readouterr().err

    yield call
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("module", COMMANDS)
def test_command__help(module: str, run: Callable[..., tuple[Any, str]]) -> None:
    assert run(module, "--help") == (0, "")


@pytest.mark.parametrize("module", COMMANDS)
def test_command__unknown_flag(module: str, run: Callable[..., tuple[Any, str]]) -> None:
    status, err = run(module, "--no-such-flag")
    assert (status, err.count("\n")) == (2, 1)
    assert err.startswith("error: ")
    assert err.endswith("--help\n")


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("pipelines.check_contracts", []),
        ("templates.render", []),
        ("local.sql", ["{}/tables.duckdb", "SELECT 1"]),
    ],
)
def test_command__done(module: str, arguments: list[str], run: Callable[..., tuple[Any, str]], tmp_path: Path) -> None:
    duckdb.connect(tmp_path / "tables.duckdb").close()
    assert run(module, *arguments) == (0, "")


def test_command__something_to_report(run: Callable[..., tuple[Any, str]], tmp_path: Path) -> None:
    """A contract with a problem is what the check reports. The other commands that report something need a broker."""
    write_contract(tmp_path / "contracts", "{")
    status, err = run("pipelines.check_contracts", "{}/contracts")
    assert status == 1
    assert "error:" not in err


@pytest.mark.parametrize(
    ("module", "arguments", "error"),
    [
        (
            "pipelines.deliver",
            [f"--subscription={SUBSCRIPTION}", f"--audit_topic={TOPIC}", "--storage=s3://a", STORES[1]],
            "s3:",
        ),
        ("pipelines.audit", [f"--subscription={SUBSCRIPTION}", *STORES], "nothing was ever delivered here"),
        ("pipelines.replay", [f"--topic={TOPIC}", HOURS, "--reason=not_json", STORES[0]], "there are no dead letters here"),
        ("pipelines.backfill", ["--archive=s3://a", HOURS, *STORES, f"--audit_topic={TOPIC}"], "s3:"),
        ("pipelines.missing", ["--archive={}/archive", HOURS, STORES[0]], "no file can contain events of these hours"),
        ("pipelines.reload", [HOURS, *STORES, "--type=none"], "--type=none is unknown"),
        ("publisher", ["publish", "{}/none.ndjson", f"--topic={TOPIC}"], "none.ndjson can't be read"),
        ("publisher", ["simulate", f"--topic={TOPIC}", "--end=2999-01-01T00:00:00Z"], "not in the future"),
        ("local.pubsub", ["--port=0", "--topic=events"], "events"),
        ("local.sql", ["{}/none.duckdb", "SELECT 1"], "none.duckdb does not exist"),
        ("pipelines.check_contracts", ["{}/none"], "there is no such folder"),
        ("templates.render", ["image"], "build/templates/deliver.json can't be written"),
    ],
)
def test_command__failed(
    module: str, arguments: list[str], error: str, run: Callable[..., tuple[Any, str]], tmp_path: Path
) -> None:
    (tmp_path / "build").write_text("a file where templates.render needs a folder")
    status, err = run(module, *arguments)
    assert (status, err.count("\n")) == (2, 1), err
    assert err.startswith("error: ")
    assert error in err


def test_exit_status_of__returns_the_status() -> None:
    assert (exit_status_of(lambda: 0), exit_status_of(lambda: 1)) == (0, 1)


@pytest.mark.parametrize(
    ("interrupt", "status"),
    [(KeyboardInterrupt(), 130), (Interrupted(signal.SIGINT), 130), (Interrupted(signal.SIGTERM), 143)],
)
def test_exit_status_of__interrupted(interrupt: KeyboardInterrupt, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> int:
        raise interrupt

    assert exit_status_of(main, "interrupted: some events were not published") == status
    assert capsys.readouterr().err == "interrupted: some events were not published\n"


def test_report_error__one_line() -> None:
    class Special(EventDeliveryError):
        exit_status = 3

    err = io.StringIO()
    assert report_error(UserError("a: broken. What to do: repair it"), err) == 2
    assert report_error(Special("b: special"), err) == 3
    assert err.getvalue() == "error: a: broken. What to do: repair it\nerror: b: special\n"


def test_report_error__bug() -> None:
    """Python ends with status 1 after an unexpected exception, which is "done" here; so it is reported as 2."""
    err = io.StringIO()
    assert report_error(ValueError("two\nlines"), err) == 2
    assert err.getvalue().endswith("\nerror: ValueError: two lines\n")


def test_command_parser__no_abbreviations(capsys: pytest.CaptureFixture[str]) -> None:
    parser = CommandParser(prog="python -m p")
    parser.add_argument("--storage")
    with pytest.raises(SystemExit) as end:
        parser.parse_args(["--stor=x"])
    assert end.value.code == 2
    assert capsys.readouterr().err == "error: unrecognized arguments: --stor=x. What to do: see python -m p --help\n"


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(("output", "expected", "lines"), [("full", 2, 1), ("closed", 141, 0)])
def test_command__unwritable_output(output: str, expected: int, lines: int, unbuffered: str) -> None:
    """A full disk behind standard output is an error of one line; a reader that has closed it ends the command quietly."""
    if output == "full" and not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    if output == "full":
        target = os.open("/dev/full", os.O_WRONLY)
    else:
        read_end, target = os.pipe()
        os.close(read_end)
    command = [sys.executable, "-m", "pipelines.check_contracts"]
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    try:
        done = subprocess.run(command, stdout=target, stderr=subprocess.PIPE, text=True, env=environment, check=False)
    finally:
        os.close(target)
    assert (done.returncode, done.stderr.count("\n")) == (expected, lines), done.stderr
    assert done.stderr.startswith("error: ") == bool(lines)
