"""Command line of the local Pub/Sub broker: python -m local.pubsub."""

from __future__ import annotations

if __name__ == "__main__":
    from cli.interrupts import end_in_one_line

    end_in_one_line()

import signal
import sys

from google.api_core.exceptions import GoogleAPICallError

from cli.command import CommandParser, UserError, exit_status_of
from local.pubsub.broker import Broker


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM, and return the exit status: 2 if the port can't be used or a topic can't be created."""
    return exit_status_of(lambda: _serve(arguments))


def _serve(arguments: list[str] | None) -> int:
    parser = CommandParser(
        prog="python -m local.pubsub",
        description="Run a Pub/Sub broker in one process and in memory, for development and tests. When it is ready, it "
        "prints one line: PUBSUB_EMULATOR_HOST=host:port. A program with this variable in its environment uses the broker "
        "in place of Cloud Pub/Sub. SIGINT or SIGTERM ends the broker, and its topics and messages are lost.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument(
        "--port", type=port_number, default=8085, help="port to listen on; 0 selects a free one (default: %(default)s)"
    )
    parser.add_argument(
        "--topic",
        action="append",
        default=[],
        metavar="projects/PROJECT/topics/NAME",
        help="create this topic, with a subscription projects/PROJECT/subscriptions/NAME; can be repeated",
    )
    flags = parser.parse_args(arguments)
    # Blocked before any thread starts, so that no thread receives these signals. They stay pending until sigwait.
    stop_signals = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, stop_signals)
    try:
        with Broker(flags.host, flags.port, topics=flags.topic) as broker:
            print(f"PUBSUB_EMULATOR_HOST={broker.address}", flush=True)
            signal.sigwait(stop_signals)
    except GoogleAPICallError as error:
        raise UserError(f"can't create a topic of --topic: {error.message}") from None
    except OSError as error:
        raise UserError(str(error)) from None
    return 0


def port_number(text: str) -> int:
    """Parse a port, 0 to 65535. Raise ValueError, as argparse requires, if the text is something else."""
    port = int(text)
    if not 0 <= port <= 65535:
        raise ValueError(f"{port} is not between 0 and 65535")
    return port


if __name__ == "__main__":
    sys.exit(main())
