"""Progress on a terminal and elsewhere."""

from __future__ import annotations

import io
import logging
import re
import threading
from collections.abc import Iterator

import pytest
from rich.console import Console

from cli.progress import progress_bar, status_line

SECONDS = 30.0


def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=80, _environ={"TERM": "xterm"})


def plain() -> Console:
    return Console(file=io.StringIO(), width=80)


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def lines_shown(console: Console) -> list[str]:
    """The lines that a terminal has shown, those included that were written over."""
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text_of(console))
    return [line for line in re.split(r"[\r\n]+", text) if line.strip()]


@pytest.fixture
def log() -> Iterator[logging.Logger]:
    logger = logging.getLogger("test_progress")
    logger.setLevel(logging.INFO)
    before = list(logging.getLogger().handlers)
    yield logger
    for handler in set(logging.getLogger().handlers) - set(before):
        logging.getLogger().removeHandler(handler)


def test_progress_bar__terminal() -> None:
    console = terminal()
    with progress_bar("publishing a-file-with-a-name-that-is-rather-long.ndjson.gz", 200, console) as show_done:
        show_done(100)
    lines = lines_shown(console)
    assert "50%" in lines[-1]
    assert max(map(len, lines)) <= 80


def test_progress_bar__plain(monkeypatch: pytest.MonkeyPatch) -> None:
    console = plain()
    with progress_bar("publishing", 200, console) as show_done:
        show_done(50)
        assert text_of(console) == ""
        monkeypatch.setattr("cli.progress.LINE_SECONDS", 0.0)
        show_done(100)
    assert text_of(console) == "publishing: 50%\n"


def test_progress_bar__nothing_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.progress.LINE_SECONDS", 0.0)
    console = plain()
    with progress_bar("publishing", 0, console) as show_done:
        show_done(0)
    assert text_of(console) == "publishing: 0%\n"


def test_status_line__terminal() -> None:
    console = terminal()
    with status_line(lambda: "pulled 10,000,000, acknowledged 10,000,000, table loads 10,000", console=console):
        pass
    lines = lines_shown(console)
    assert lines
    assert all("table loads 10,000 0:00:0" in line and len(line) <= 80 for line in lines)
    assert text_of(console).endswith("\x1b[2K"), "nothing is left of it"


def test_status_line__plain_changes_only() -> None:
    console, shown = plain(), threading.Event()
    texts = iter(["pulled 0", "pulled 0", "pulled 1", "pulled 1", "pulled 2"])

    def status() -> str:
        text = next(texts, "")
        if not text:
            shown.set()
        return text or "pulled 2"

    with status_line(status, seconds=0.001, console=console):
        assert shown.wait(SECONDS)
    assert text_of(console) == "pulled 1\npulled 2\n"


def test_status_line__log_above(log: logging.Logger) -> None:
    """A log line has a line of its own, and the status goes on below it."""
    console = terminal()
    handler = logging.StreamHandler(console.file)
    logging.getLogger().addHandler(handler)
    with status_line(lambda: "pulled 5", console=console):
        log.warning("a bucket is damaged")
    log.warning("afterwards")
    assert "a bucket is damaged" in [line.rstrip() for line in lines_shown(console)]
    assert text_of(console).endswith("afterwards\n")
    assert handler.stream is console.file


def test_status_line__error_in_block(log: logging.Logger) -> None:
    console = terminal()
    handler = logging.StreamHandler(console.file)
    logging.getLogger().addHandler(handler)
    with pytest.raises(ValueError, match="wrong"), status_line(lambda: "pulled 5", console=console):
        raise ValueError("wrong")
    assert handler.stream is console.file
    assert text_of(console).endswith("\x1b[2K")
