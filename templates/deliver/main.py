"""What the template's launcher runs: starts deliver on Dataflow and ends.

It must not wait for the job: the launcher's machine is charged as long as it runs, reports the launch only when this program
has ended, and gives up on one that takes too long. A streaming job would never let it end.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pipelines import deliver
from pipelines.command import run_main
from pipelines.runners import DATAFLOW


def main(argv: Sequence[str]) -> int:
    """Launches deliver with the template's parameters, always on Dataflow. Raises what `deliver.main` does."""
    return deliver.main([*argv, f"--runner={DATAFLOW}"])


if __name__ == "__main__":
    sys.exit(run_main(main))
