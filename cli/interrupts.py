"""SIGINT while a command imports its libraries. Imports little itself, so that a command can import it first."""

import os
import signal

STATUS = 128 + signal.SIGINT


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM has arrived."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.status = 128 + number
        """The exit status of the command."""


def end_in_one_line() -> None:
    """Make SIGINT end the process with one line and status 130, until the command installs a handler of its own.

    A KeyboardInterrupt would print a stack trace, or be lost: some libraries catch every exception of their imports.
    """
    # A shell without job control starts background programs with SIGINT ignored.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def raise_interrupts() -> None:
    """Make SIGINT and SIGTERM raise Interrupted, for a command that has to finish some work before it ends."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, _raise)
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _raise)


def _end(_number: int, _frame: object) -> None:
    # Not print: the signal may have come in the middle of one.
    os.write(2, b"interrupted\n")
    os._exit(STATUS)


def _raise(number: int, _frame: object) -> None:
    raise Interrupted(number)
