"""How a command parses its flags and ends. All commands have the same exit statuses:

0          done, also for a stream that a signal has ended
1          done, with something to report
2          failed, with a line that begins with "error:"
130, 143   interrupted by SIGINT, SIGTERM
141        the reader of standard output, such as `head`, has closed it
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn, TextIO

from cli.help import ParagraphFormatter
from cli.interrupts import STATUS, Interrupted
from schemas.errors import EventDeliveryError

FAILED = 2
READER_GONE = 141


class UserError(EventDeliveryError):
    """The flags contradict each other or the environment, or a part of the command's work has failed."""


class CommandParser(argparse.ArgumentParser):
    """A parser of flags that can't be abbreviated. It prints an error as one line, without the usage."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"allow_abbrev": False, "formatter_class": ParagraphFormatter, **settings})

    def error(self, message: str) -> NoReturn:
        self.exit(FAILED, f"error: {message}. What to do: see {self.prog} --help\n")


def exit_status_of(main: Callable[[], int], interrupted: str = "interrupted") -> int:
    """Run a command and return its exit status, also if it raises an error or a signal interrupts it.

    Args:
        main: returns the exit status.
        interrupted: the line to print if a KeyboardInterrupt ends it.
    """
    try:
        return flush_output(main())
    except KeyboardInterrupt as interrupt:
        print(interrupted, file=sys.stderr)
        return interrupt.status if isinstance(interrupt, Interrupted) else STATUS
    except Exception as error:  # noqa: BLE001 - printed, with its stack trace
        return report_error(error, sys.stderr)


def flush_output(status: int) -> int:
    """Write out what was printed. Returns `status`, or the status of the failure if standard output can't be written."""
    try:
        sys.stdout.flush()
    except OSError as error:
        # Otherwise Python would flush again at its end, and end with status 120.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return report_error(error, sys.stderr)
    return status


def report_error(error: BaseException, stderr: TextIO) -> int:
    """Print an error as one line that begins with "error:", and return the exit status.

    An exception that is no EventDeliveryError is a bug; its stack trace is printed above the line. Python would end with status
    1 then, which means "done" here.
    """
    if isinstance(error, EventDeliveryError):
        print(f"error: {error}", file=stderr)
        return error.exit_status
    if isinstance(error, BrokenPipeError):
        return READER_GONE
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        # Of standard output, or in the folder for temporary files. The stores report errors of their own files as StoreError.
        print(f"error: {error}. What to do: free some space, or set TMPDIR to another folder; then run it again", file=stderr)
        return FAILED
    traceback.print_exception(error, file=stderr)
    print(f"error: {type(error).__name__}: {' '.join(str(error).split())}", file=stderr)
    return FAILED
