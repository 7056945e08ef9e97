"""replay: publishes dead letters again, for deliver to take them once more: after a contract or a program was mended.

They keep their attributes and their event ids, and come to the hour that they belong to. What is delivered already is not
published, and what is refused again is the same dead letter as before; so a replay may be repeated, also one that was
interrupted. A dead letter that is older than the allowed lateness is delivered to the hour of the replay, with its own time
beside it; refused again, it lies in that hour too, and is replayed from there. Exit status 2 when some dead letter could not be
read or published; all others are then.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from functools import partial

import google.pubsub_v1
from google.cloud import pubsub_v1
from google.pubsub_v1.types import PublishRequest, PubsubMessage
from rich.console import Console
from rich.progress import Progress

from pipelines.clients import publisher
from pipelines.flags import UserError, duration, hours, resource, run_main
from schemas.buckets import DEAD_LETTERS, Bucket
from schemas.contributions import Part
from schemas.outcomes import Reason
from transforms.buckets import Buckets
from transforms.buckets.opening import open_buckets
from transforms.clocks import utc_now
from transforms.hours import buckets_of
from transforms.pubsub import REQUEST_SECONDS, PubSubError, check_topic, patiently
from transforms.replaying import Letter, known_since, read_letters
from transforms.versions import DAMAGE, shown_receipt

MOST_MESSAGES, MOST_BYTES = 1_000, 10_000_000
"""Pub/Sub takes no request with more."""
MOST_ATTRIBUTES = 100
"""Pub/Sub takes no message with more."""
NAMED = 5
"""So many problems are named where there are more."""
EXAMPLE = """mend the contract or the program first; run deliver afterwards. For example: python -m pipelines.replay --buckets
out/buckets --topic projects/my-project/topics/events --hours 2026-01-31T00..2026-01-31T23 --reason unknown_type"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    flags = argparse.ArgumentParser(prog="python -m pipelines.replay", description=__doc__, epilog=EXAMPLE, allow_abbrev=False)
    flags.add_argument("--buckets", required=True, help="the folder or gs://bucket[/prefix] that deliver writes to")
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
    buckets, now = open_buckets(flags.buckets), utc_now()
    first, last = flags.hours
    if next(buckets.list(f"{DEAD_LETTERS}/"), None) is None:
        raise UserError(f"{buckets.uri}: there are no dead letters here. Give the --buckets that deliver writes to.")
    asked = list(buckets_of(buckets, DEAD_LETTERS, first, last))
    replay = Replay(buckets, frozenset(flags.reason), now, flags.allowed_lateness)
    with publisher() as client, Progress(console=Console(stderr=True), transient=True) as progress:
        check_topic(client, flags.topic)
        outbox = Outbox(client, flags.topic)
        task = progress.add_task("hours replayed", total=len(asked))
        for bucket in asked:
            for letter in replay.due(bucket):
                if problem := outbox.add(letter):
                    replay.problems.append(f"{bucket.folder}: {problem}")
            progress.advance(task)
        outbox.flush()
    print(f"{outbox.published} dead letters published again; {replay.delivered} more are delivered already")
    if not replay.read and not replay.problems:
        print(f"These hours have no dead letter of the reason {' or '.join(flags.reason)}")
    if replay.refused:
        told = ", ".join(f"{hour:%Y-%m-%dT%H}" for hour in sorted(replay.refused)[:NAMED])
        print(
            f"{sum(replay.refused.values())} were replayed too late for their hour and refused again: replay them from {told}"
        )
    if replay.problems:
        more = [f"and {len(replay.problems) - NAMED} more"] if len(replay.problems) > NAMED else []
        raise UserError("\n  ".join(["all others were replayed, but not these:", *replay.problems[:NAMED], *more]))
    return 0


class Replay:
    """Finds the dead letters that are due, and counts the others. read: all of the reasons that were asked for; delivered:
    those whose events are; refused: those that were refused again, too late for their hour, by the hour where they lie since.
    """

    def __init__(self, buckets: Buckets, reasons: frozenset[str], now: datetime, allowed_lateness: timedelta) -> None:
        self.read = self.delivered = 0
        self.refused: Counter[datetime] = Counter()
        self.problems: list[str] = []
        self._buckets = buckets
        self._reasons = reasons
        self._now = now
        self._allowed_lateness = allowed_lateness

    def due(self, bucket: Bucket) -> Iterator[Letter]:
        """Those of a bucket. What is damaged is added to the problems, and does not keep the rest from being read."""
        try:
            parts = shown_receipt(self._buckets, bucket).parts
        except DAMAGE as error:
            self.problems.append(str(error))
            return
        readable: list[Part] = []
        try:
            # Once for all files of the bucket: it may ask every hour since.
            known = known_since(self._buckets, self._letters(bucket, parts, readable), self._now, self._allowed_lateness)
        except DAMAGE as error:
            self.problems.append(str(error))
            return
        for letter in self._letters(bucket, readable, []):
            self.read += 1
            if (letter.event_type, letter.hashed) in known.delivered:
                self.delivered += 1
            elif letter.own_hash in known.refused:
                self.refused[known.refused[letter.own_hash]] += 1
            else:
                yield letter

    def _letters(self, bucket: Bucket, parts: Iterable[Part], readable: list[Part]) -> Iterator[Letter]:
        """Those in the files; adds the files that could be read to `readable`, and the others to the problems."""
        for part in parts:
            try:
                yield from read_letters(self._buckets, bucket, part, self._reasons)
                readable.append(part)
            except DAMAGE as error:
                self.problems.append(str(error))


class Outbox:
    """Publishes letters, as many at a time as Pub/Sub takes. published: how many it has taken."""

    def __init__(self, client: pubsub_v1.PublisherClient, topic: str) -> None:
        self.published = 0
        # Not its own `publish`, which takes attributes as arguments: not those that are called `topic` or `data`.
        self._publish = partial(google.pubsub_v1.PublisherClient.publish, client)
        self._topic = topic
        self._messages: list[PubsubMessage] = []
        self._bytes = 0

    def add(self, letter: Letter) -> str | None:
        """Why the letter can't be published, if it can't. Raises PubSubError as `flush` does."""
        if len(letter.attributes) > MOST_ATTRIBUTES:
            return f"message {letter.message_id} would have more than {MOST_ATTRIBUTES} attributes, which Pub/Sub does not take"
        message = PubsubMessage(data=letter.data, attributes=letter.attributes)
        size = _size(self._topic, message)
        if size > MOST_BYTES:
            return f"message {letter.message_id} would be larger than Pub/Sub takes"
        if len(self._messages) == MOST_MESSAGES or self._bytes + size > MOST_BYTES:
            self.flush()
        self._messages.append(message)
        self._bytes += size
        return None

    def flush(self) -> None:
        """Publishes what is left. Raises PubSubError where Pub/Sub refuses, or is away for longer than AWAY_SECONDS."""
        if not self._messages:
            return
        request = PublishRequest(topic=self._topic, messages=self._messages)
        try:
            patiently(lambda: self._publish(request, timeout=REQUEST_SECONDS, retry=None), self._topic)
        except PubSubError as error:
            raise PubSubError(
                f"{self.published} dead letters were published, and then no more: {error} "
                "What is delivered by then is not published again."
            ) from None
        self.published += len(self._messages)
        self._messages, self._bytes = [], 0


def _size(topic: str, message: PubsubMessage) -> int:
    """Bytes of a request that publishes the message alone."""
    return int(PublishRequest.pb(PublishRequest(topic=topic, messages=[message])).ByteSize())


if __name__ == "__main__":
    sys.exit(run_main(main))
