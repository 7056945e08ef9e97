"""replay: publishes dead letters again, for deliver to take them once more: after a contract or a program was mended.

They keep their attributes and their event ids, and come to the hour that they belong to. What is delivered already is not
published, and what is refused again is the same dead letter as before; so a replay may be repeated, also one that was
interrupted. A dead letter that is older than the allowed lateness is delivered to the hour of the replay, with its own time
beside it; refused again, it lies in that hour too, and is replayed from there. Exit status 2 when some dead letter could not be
read or published; all others are then.
"""

from __future__ import annotations

if __name__ == "__main__":
    from cli.interrupts import end_in_one_line

    end_in_one_line()

import argparse
import sys
from collections.abc import Sequence
from datetime import timedelta

from cli.help import ParagraphFormatter
from cli.progress import progress_bar
from pipelines.arguments import duration, hours, resource
from pipelines.command import UserError, run_main
from pipelines.pubsub_clients import publisher
from schemas.buckets import DEAD_LETTERS
from schemas.errors import first_few, with_list
from schemas.outcomes import Reason
from storage.buckets.listing import buckets_of
from storage.open import open_store
from transforms.clocks import utc_now
from transforms.pubsub.retry import check_topic
from transforms.recovery.replay import Outbox, Replay

EXAMPLE = """
mend the contract or the program first; run deliver afterwards. For example:

  python -m pipelines.replay --storage out/storage \\
    --topic projects/my-project/topics/events --reason unknown_type \\
    --hours 2026-01-31T00..2026-01-31T23
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    flags = argparse.ArgumentParser(
        prog="python -m pipelines.replay",
        description=__doc__,
        formatter_class=ParagraphFormatter,
        epilog=EXAMPLE,
        allow_abbrev=False,
    )
    flags.add_argument("--storage", required=True, help="the folder or gs://bucket[/prefix] that deliver writes to")
    flags.add_argument(
        "--reason",
        required=True,
        action="append",
        choices=sorted(Reason),
        help="why they were refused; may be given again. One of %(choices)s",
        metavar="REASON",
    )
    flags.add_argument(
        "--hours", required=True, type=hours, help="dead letters of which hours, FROM..TO as 2026-01-31T00..2026-01-31T23"
    )
    flags.add_argument("--topic", required=True, type=resource("topics"), help="where deliver's events come from")
    flags.add_argument("--allowed_lateness", type=duration, default=timedelta(days=7), help="as for deliver (default: 7d)")
    return flags


def main(argv: Sequence[str]) -> int:
    """Publishes them, and tells how many that were. Raises what `run_main` tells the user."""
    flags = parser().parse_args(argv)
    store, now = open_store(flags.storage), utc_now()
    first, last = flags.hours
    if next(store.list(f"{DEAD_LETTERS}/"), None) is None:
        raise UserError(f"{store.uri}: there are no dead letters here. Give the --storage that deliver writes to.")
    asked = list(buckets_of(store, DEAD_LETTERS, first, last))
    replay = Replay(store, frozenset(flags.reason), now, flags.allowed_lateness)
    with publisher() as client, progress_bar("hours replayed", len(asked)) as show_done:
        check_topic(client, flags.topic)
        outbox = Outbox(client, flags.topic)
        for done, bucket in enumerate(asked, 1):
            for dead_letter in replay.due(bucket):
                if problem := outbox.add(dead_letter):
                    replay.problems.append(f"{bucket.folder}: {problem}")
            show_done(done)
        outbox.flush()
    print(f"{outbox.published} dead letters published again; {replay.delivered} more are delivered already")
    if not replay.read and not replay.problems:
        print(f"These hours have no dead letter of the reason {' or '.join(flags.reason)}")
    if replay.refused:
        first_hours = ", ".join(first_few([f"{hour:%Y-%m-%dT%H}" for hour in sorted(replay.refused)]))
        print(
            f"{sum(replay.refused.values())} were replayed too late for their hour and refused again: "
            f"replay them from {first_hours}"
        )
    if replay.problems:
        raise UserError(with_list("all others were replayed, but not these:", replay.problems))
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
