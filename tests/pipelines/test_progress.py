"""Progress of deliver and of many calls at once."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from pipelines.deliver import progress_of
from pipelines.progress import map_with_progress
from tests.support.delivery import World, search
from tests.support.terminal import run_on_terminal
from transforms.pubsub.leases import Leases


def test_progress_of__ten_million() -> None:
    leases = Leases("projects/p/subscriptions/s", None)
    leases.pulled = leases.acknowledged = 10_000_000
    leases.loaded = 10_000
    spinner_and_time = len("⠋ ") + len(" 0:00:00")
    assert progress_of(leases) == "pulled 10,000,000, acknowledged 10,000,000, table loads 10,000"
    assert len(progress_of(leases)) + spinner_and_time <= 80


def test_map_with_progress__order() -> None:
    """Results come in the order of the items, whichever ends first."""
    second = threading.Event()

    def double(number: int) -> int:
        if number == 1:
            assert second.wait(30)
        elif number == 2:
            second.set()
        return 2 * number

    assert map_with_progress("doubled", double, [1, 2, 3]) == [2, 4, 6]


def test_map_with_progress__plain_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("cli.progress.LINE_SECONDS", 0.0)
    assert map_with_progress("doubled", lambda number: 2 * number, [1, 2]) == [2, 4]
    assert capsys.readouterr().err == "doubled: 50%\ndoubled: 100%\n"


def test_map_with_progress__error() -> None:
    with pytest.raises(ZeroDivisionError):
        map_with_progress("divided", lambda number: 1 // number, [1, 0])


@pytest.mark.slow
def test_run_once__plain_lines(world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("cli.progress.LINE_SECONDS", 0.01)
    world.publish(search("a"), search("b"))
    assert world.deliver() == 0
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith("pulled 2, acknowledged ") for line in lines), lines
    assert max(map(len, lines)) <= 80


@pytest.mark.slow
def test_run_once__last_status(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    texts: list[str] = []

    @contextmanager
    def keep_last(status: Callable[[], str]) -> Iterator[None]:
        yield
        texts.append(status())

    monkeypatch.setattr("pipelines.deliver.status_line", keep_last)
    world.publish(search("a"), search("b"))
    assert world.deliver() == 0
    [text] = texts
    assert re.fullmatch("pulled 2, acknowledged 2, table loads [1-9]", text)


@pytest.mark.slow
def test_run_once__terminal(world: World) -> None:
    world.publish(search("a"), search("b"))
    environment = {"PUBSUB_EMULATOR_HOST": world.address}
    shown = run_on_terminal("-m", "pipelines.deliver", *world.deliver_flags(), environment=environment)
    assert shown.status == 0, shown.text
    assert any(" pulled 2, acknowledged " in line for line in shown.lines)
    assert shown.lines[-1].startswith("2 messages delivered and acknowledged in ")
    assert max(map(len, shown.lines)) <= 80


WITHOUT_END = """
import sys, time
from pipelines import command, deliver
from transforms.decode.decoder import Decoder

Decoder.finish = lambda self: time.sleep(600)
sys.exit(command.run_main(deliver.main))
"""


@pytest.mark.slow
def test_run_once__terminal_interrupted(world: World) -> None:
    """The last words stand alone, not behind the progress."""
    world.publish(search("a"))
    environment = {"PUBSUB_EMULATOR_HOST": world.address}
    shown = run_on_terminal("-c", WITHOUT_END, *world.deliver_flags(), environment=environment, interrupt_at="pulled 1")
    assert shown.status == 130, shown.text
    assert shown.lines[-1] == "interrupted: no undelivered message was acknowledged; run the command again"
    assert "Traceback" not in shown.text
    assert world.undelivered() == 1
