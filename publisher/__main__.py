"""Entry point of `python -m publisher`; the command line is in publisher/cli.py."""

from __future__ import annotations

if __name__ == "__main__":
    from cli.interrupts import end_in_one_line, raise_interrupts

    end_in_one_line()

import sys

from publisher.cli import main

if __name__ == "__main__":
    # From here on, a signal must not end the process at once: messages that were sent have to be counted and reported first.
    raise_interrupts()
    sys.exit(main())
