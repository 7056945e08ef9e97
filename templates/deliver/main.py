"""Program of the template's launcher: starts deliver on Dataflow, and ends without waiting for the job.

A streaming job never ends. The launcher reports the launch only when this program has ended, and gives up if that takes too
long. Its machine is charged until then.
"""

from __future__ import annotations

if __name__ == "__main__":
    from cli.interrupts import end_in_one_line

    end_in_one_line()

import sys
from collections.abc import Sequence

from pipelines import deliver
from pipelines.command import run_main
from pipelines.runners import DATAFLOW


def main(argv: Sequence[str]) -> int:
    """Launch deliver with the template's parameters, always on Dataflow. Raises the exceptions of `deliver.main`."""
    return deliver.main([*argv, f"--runner={DATAFLOW}"])


if __name__ == "__main__":
    sys.exit(run_main(main))
