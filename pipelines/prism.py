"""Prism, Beam's streaming runner for one machine: starts it as a subprocess, and translates its errors."""

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

from cli.command import UserError
from pipelines.command import without_step
from schemas.errors import EventDeliveryError

START_SECONDS = 30.0
"""How long Prism may take until it accepts connections."""
END_SECONDS = 5.0
"""How long Prism may take to end after SIGTERM; then it is killed."""
TEN_YEARS = 315_360_000
"""In seconds."""

_MODULE = f"github.com/apache/beam/sdks/v2/go/cmd/prism@v{version.__version__}"
_UNTIL_KILLED = 'exec 3<&0; (read -r _ <&3; kill -9 $$) >/dev/null 2>&1 & exec "$0" "$@" </dev/null 3<&-'
"""Shell script that runs Prism, and kills it at the end of the script's standard input.

The input is a pipe from this Python process, which ends even if this process is killed. The steps run in this process, and
without it, Prism would run for ever, in a busy loop."""
_HELP = (
    "What to do: connect to a network, so that Beam can download it, or build it elsewhere with "
    f"`go install {_MODULE}`, and pass --prism_location=FILE"
)


@contextmanager
def running_prism(options: PipelineOptions) -> Iterator[None]:
    """Run Prism inside the block, and set its address in the options.

    Raises:
        UserError: Prism could not be downloaded, or did not start.
    """
    options.view_as(PrismRunnerOptions).prism_log_level = "warn"
    try:
        command, endpoint = PrismJobServer(options).subprocess_cmd_and_endpoint()
    except (RuntimeError, ValueError, OSError, AssertionError) as error:
        raise UserError(
            f"Prism, which --mode=stream needs, is not available: {_one_line(error) or 'there is no such file'}. {_HELP}"
        ) from None
    with _quiet(), TemporaryFile() as output, _started(list(map(str, command)), output) as process:
        _wait(process, endpoint, output)
        portable = options.view_as(PortableOptions)
        portable.job_endpoint = endpoint
        # Beam also limits its wait for the end of the job by this.
        portable.job_server_timeout = TEN_YEARS
        yield


class _Discard(TextIOBase):
    """A stream that discards all text, for threads that print even after the block has ended."""

    def write(self, text: str) -> int:
        return len(text)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Beam inside the block.

    Its threads print the error that ends a stream several times, with stack traces; `run_main` prints it once.
    """
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.CRITICAL)
    # Not restored after the block: threads that have lost their connection to Prism fail later.
    threading.excepthook = lambda _: None
    sys.stderr = _Discard()
    try:
        yield
    finally:
        root.setLevel(before)


@contextmanager
def _started(command: list[str], output: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    # In a session of its own, so that Ctrl-C in a terminal reaches this process only, which needs Prism for its drain.
    with subprocess.Popen(  # noqa: S603 - the binary of --prism_location, or Beam's own
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
    printed = " ".join(output.read().decode(errors="replace").split())[-300:]
    raise UserError(f"Prism did not start: {printed or 'it printed nothing'}. {_HELP}")


def what_failed(error: RuntimeError) -> Exception:
    """Return the EventDeliveryError that failed a step, or `error` itself if it was another exception.

    Prism reports a failed step as a text that contains the stack trace. The last line of the stack trace has the class and the
    message of the exception, from which the EventDeliveryError is created again.
    """
    text = str(error)
    start, prefix, kind = max((text.rfind(prefix), prefix, kind) for prefix, kind in _prefixes(EventDeliveryError))
    if start < 0:
        return error
    message, _, _ = text[start + len(prefix) :].partition("\n\n")
    return kind(_one_line(without_step(message)))


def _prefixes(kind: type[EventDeliveryError]) -> Iterator[tuple[str, type[EventDeliveryError]]]:
    """Yield, for a class and all that derive from it, the text before the message in a stack trace, and the class."""
    yield f"{kind.__module__}.{kind.__qualname__}: ", kind
    for derived in kind.__subclasses__():
        yield from _prefixes(derived)


def _one_line(error: object) -> str:
    return " ".join(str(error).split())
