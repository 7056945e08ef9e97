"""Prism: Beam's streaming engine for one machine, a program of its own that runs while a block lasts."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOBase
from tempfile import TemporaryFile
from typing import IO

import grpc
from apache_beam import version
from apache_beam.options.pipeline_options import PipelineOptions, PortableOptions, PrismRunnerOptions
from apache_beam.runners.portability.prism_runner import PrismJobServer

from pipelines.command import UserError, without_step
from schemas.errors import EventDeliveryError

START_SECONDS = 30.0
END_SECONDS = 5.0
TEN_YEARS = 315_360_000
"""In seconds."""

_MODULE = f"github.com/apache/beam/sdks/v2/go/cmd/prism@v{version.__version__}"
_UNTIL_KILLED = 'exec 3<&0; (read -r _ <&3; kill -9 $$) >/dev/null 2>&1 & exec "$0" "$@" </dev/null 3<&-'
"""Runs a program that is killed when the input ends, as it does when this process is killed: without its worker, Prism would
go on for ever, and be busy."""
_HELP = (
    "Beam downloads it where there is a network. Where there is none, build it elsewhere with "
    f"`go install {_MODULE}`, and give --prism_location=FILE."
)


@contextmanager
def running_prism(options: PipelineOptions) -> Iterator[None]:
    """Runs Prism, and points the options to it. Raises UserError where it can't be had, or does not start."""
    options.view_as(PrismRunnerOptions).prism_log_level = "warn"
    try:
        command, endpoint = PrismJobServer(options).subprocess_cmd_and_endpoint()
    except (RuntimeError, ValueError, OSError, AssertionError) as error:
        raise UserError(
            f"Prism, which --mode=stream needs, can't be had: {_one_line(error) or 'that is no file'}. {_HELP}"
        ) from None
    with _quiet(), TemporaryFile() as output, _started(list(map(str, command)), output) as process:
        _wait(process, endpoint, output)
        portable = options.view_as(PortableOptions)
        portable.job_endpoint = endpoint
        # Beam bounds its wait for the end of the job by this too.
        portable.job_server_timeout = TEN_YEARS
        yield


class _Nowhere(TextIOBase):
    """Takes what threads print, also those that go on after the block."""

    def write(self, text: str) -> int:
        return len(text)


@contextmanager
def _quiet() -> Iterator[None]:
    """What stops a stream is raised, and told once, by `run_main`; Beam's threads would print it several times, with stack
    traces."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.CRITICAL)
    # For good: threads that miss their engine end when the block has ended.
    threading.excepthook = lambda _: None
    sys.stderr = _Nowhere()
    try:
        yield
    finally:
        root.setLevel(before)


@contextmanager
def _started(command: list[str], output: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    # A session of its own: what a terminal sends to all of its programs is for this one alone, which needs Prism to end well.
    with subprocess.Popen(  # noqa: S603 - the binary that the user has named, or Beam's own
        ["/bin/sh", "-c", _UNTIL_KILLED, *command],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait(process: subprocess.Popen[bytes], endpoint: str, output: IO[bytes]) -> None:
    until = time.monotonic() + START_SECONDS
    with grpc.insecure_channel(endpoint) as channel:
        ready = grpc.channel_ready_future(channel)
        while process.poll() is None and time.monotonic() < until:
            try:
                return ready.result(timeout=0.2)
            except grpc.FutureTimeoutError:
                continue
        ready.cancel()
    output.seek(0)
    words = " ".join(output.read().decode(errors="replace").split())[-300:]
    raise UserError(f"Prism did not start: {words or 'it printed nothing'}. {_HELP}")


def what_failed(error: RuntimeError) -> Exception:
    """Return the error of ours that an engine's error quotes, or the engine's own if it quotes none.

    Prism reports a failed step as text, with the stack trace that the worker has sent.
    """
    text = str(error)
    start, name, kind = max((text.rfind(name), name, kind) for name, kind in _names(EventDeliveryError))
    if start < 0:
        return error
    message, _, _ = text[start + len(name) :].partition("\n\n")
    return kind(_one_line(without_step(message)))


def _names(kind: type[EventDeliveryError]) -> Iterator[tuple[str, type[EventDeliveryError]]]:
    """Yield the class and all that derive from it, with their names as a stack trace has them."""
    yield f"{kind.__module__}.{kind.__qualname__}: ", kind
    for derived in kind.__subclasses__():
        yield from _names(derived)


def _one_line(error: object) -> str:
    return " ".join(str(error).split())
