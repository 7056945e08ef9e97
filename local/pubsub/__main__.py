""""""

from __future__ import annotations

import argparse
import signal
import sys

from google.api_core.exceptions import GoogleAPICallError

from local.pubsub.broker import Broker


def main(arguments: list[str] | None = None) -> None:
    """Serves until SIGINT or SIGTERM. Exits with 1, and one line that says why, when it can't listen or make a topic."""
    parser = argparse.ArgumentParser(
        prog="python -m local.pubsub",
        description="A Pub/Sub broker in one process and in memory, for development and tests. When it is ready it prints "
        "one line, PUBSUB_EMULATOR_HOST=host:port: set this in the environment of a program, and its Pub/Sub clients speak "
        "to the broker. SIGINT or SIGTERM ends it, and everything in it is gone.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=port_number, default=8085, help="port; 0 takes any free one (default: %(default)s)")
    parser.add_argument(
        "--topic",
        action="append",
        default=[],
        metavar="projects/PROJECT/topics/NAME",
        help="make this topic, and on it the subscription projects/PROJECT/subscriptions/NAME; may be given again",
    )
    flags = parser.parse_args(arguments)
    # Before any thread is there, so that none of them takes the signals; they wait until sigwait.
    ends = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    try:
        with Broker(flags.host, flags.port, topics=flags.topic) as broker:
            print(f"PUBSUB_EMULATOR_HOST={broker.address}", flush=True)
            signal.sigwait(ends)
    except GoogleAPICallError as error:
        sys.exit(f"--topic: {error.message}")
    except OSError as error:
        sys.exit(str(error))


def port_number(text: str) -> int:
    """Raises ValueError, as argparse expects, for what is no port."""
    port = int(text)
    if not 0 <= port <= 65535:
        raise ValueError(f"{port} is no port")
    return port


if __name__ == "__main__":
    main()
