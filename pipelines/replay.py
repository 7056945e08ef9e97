"""Publish dead letters again, so that deliver reads them once more. Fix the contract or the program first.

The messages keep their attributes and event ids, and are delivered to their own hours. A replay can be repeated, even after an
interruption: it skips dead letters whose events have been delivered since, and one that is rejected again is the same dead
letter as before.

Dead letters older than the allowed lateness are delivered to the hour of the replay, and keep their own time in skewed_from. If
they are rejected again, they are dead letters of that hour too, and have to be replayed from there.

Exit status: 0 if all dead letters were published; 1 if Pub/Sub can't accept some of them; 2 if some of them can't be read. All
others are published in these cases. If the replay fails otherwise, the status is 2 as well.
"""

from __future__ import annotations

if __name__ == "__main__":
    from cli.interrupts import end_in_one_line

    end_in_one_line()

import argparse
import sys
from collections.abc import Sequence
from datetime import timedelta

from cli.command import CommandParser, UserError
from cli.progress import progress_bar
from pipelines.arguments import duration, hours, resource
from pipelines.command import run_main
from pipelines.pubsub_clients import if_unreachable, publisher
from schemas.buckets import DEAD_LETTERS
from schemas.errors import first_few, plural, with_list
from schemas.outcomes import Reason
from storage.buckets.listing import buckets_of
from storage.open import open_store
from transforms.clocks import utc_now
from transforms.pubsub.retry import check_topic
from transforms.recovery.replay import Outbox, Replay

EXAMPLE = """
Run deliver afterwards. For example:

  python -m pipelines.replay --storage out/storage \\
    --topic projects/my-project/topics/events --reason unknown_type \\
    --hours 2026-01-31T00..2026-01-31T23
"""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    flags = CommandParser(prog="python -m pipelines.replay", description=__doc__, epilog=EXAMPLE)
    flags.add_argument("--storage", required=True, help="object store of deliver: a folder, or gs://bucket[/prefix]")
    flags.add_argument(
        "--reason",
        required=True,
        action="append",
        choices=sorted(map(str, Reason)),
        help="reason of the dead letters to publish; can be repeated. One of %(choices)s",
        metavar="REASON",
    )
    flags.add_argument(
        "--hours",
        required=True,
        type=hours,
        help="hours of the dead letters, for example 2026-01-31T00..2026-01-31T23, both included",
    )
    flags.add_argument(
        "--topic", required=True, type=resource("topics"), help="topic of the events: projects/PROJECT/topics/NAME"
    )
    flags.add_argument(
        "--allowed_lateness", type=duration, default=timedelta(days=7), help="--allowed_lateness of deliver (default: 7d)"
    )
    return flags


def main(argv: Sequence[str]) -> int:
    """Publish the dead letters, and print how many they are."""
    flags = parser().parse_args(argv)
    store, now = open_store(flags.storage), utc_now()
    first, last = flags.hours
    if next(store.list(f"{DEAD_LETTERS}/"), None) is None:
        raise UserError(f"{store.uri}: there are no dead letters here. What to do: pass the --storage of deliver")
    buckets = list(buckets_of(store, DEAD_LETTERS, first, last))
    replay = Replay(store, frozenset(flags.reason), now, flags.allowed_lateness)
    with publisher() as client, progress_bar("hours replayed", len(buckets)) as show_done:
        check_topic(client, flags.topic, if_unreachable())
        outbox, unpublished = Outbox(client, flags.topic), []
        for done, bucket in enumerate(buckets, 1):
            problems = [outbox.add(dead_letter) for dead_letter in replay.due(bucket)]
            unpublished += [f"{bucket.folder}: {problem}" for problem in problems if problem]
            show_done(done)
        outbox.flush()
    print(
        f"{outbox.published} dead {plural(outbox.published, 'letter')} published again; "
        f"{replay.delivered} delivered already, and skipped"
    )
    if not replay.read and not unpublished and not replay.problems:
        print(f"There are no dead letters with the reason {' or '.join(flags.reason)} in these hours")
    if replay.refused:
        first_hours = ", ".join(first_few([f"{hour:%Y-%m-%dT%H}" for hour in sorted(replay.refused)]))
        print(
            f"{sum(replay.refused.values())} replayed after the allowed lateness and rejected again: "
            f"replay them from {first_hours}"
        )
    if replay.problems:
        raise UserError(
            with_list("some dead letters could not be read; all others were published:", replay.problems + unpublished)
        )
    if unpublished:
        print(with_list("Pub/Sub can't accept these dead letters; all others were published:", unpublished), file=sys.stderr)
    return 1 if unpublished else 0


if __name__ == "__main__":
    sys.exit(run_main(main))
