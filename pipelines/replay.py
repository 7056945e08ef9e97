"""replay: publishes dead letters again, for deliver to take them once more: after a contract or a program was mended.

They keep their attributes and their event ids, and come to the hour that they belong to. What is delivered already is not
published, and what is refused again is the same dead letter as before; so a replay may be repeated. A dead letter that is older
than the allowed lateness is delivered to the hour of the replay, with its own time beside it. Exit status 2 when some dead
letter could not be read or published; all others are then.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from google.api_core.exceptions import GoogleAPIError
from google.api_core.retry import Retry, if_exception_type
from google.cloud import pubsub_v1
from google.cloud.pubsub_v1.publisher.exceptions import MessageTooLargeError
from rich.console import Console
from rich.progress import Progress

from pipelines.clients import publisher
from pipelines.flags import UserError, duration, hours, resource, run_main
from schemas.buckets import DEAD_LETTERS, Bucket
from schemas.outcomes import Reason
from transforms.buckets import Buckets
from transforms.buckets.opening import open_buckets
from transforms.clocks import utc_now
from transforms.pubsub import AWAY_SECONDS, PASSING, REQUEST_SECONDS, PubSubError, check_topic, told
from transforms.replaying import Letter, delivered_already, read_letters
from transforms.skewed import buckets_of
from transforms.versions import DAMAGE, shown_receipt

MOST_UNANSWERED, MOST_UNANSWERED_BYTES = 1_000, 32 * 1024 * 1024
"""Messages under way, and their data: what is held in memory at a time."""
MOST_ATTRIBUTES = 100
"""Pub/Sub takes no message with more."""
NAMED = 5
"""So many problems are named where there are more."""

_RETRY = Retry(if_exception_type(*PASSING), initial=0.2, maximum=5.0, multiplier=2.0, timeout=AWAY_SECONDS)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    flags = argparse.ArgumentParser(prog="python -m pipelines.replay", description=__doc__, allow_abbrev=False)
    flags.add_argument("--buckets", required=True, help="the folder or gs://bucket[/prefix] that deliver writes to")
    flags.add_argument(
        "--reason",
        required=True,
        action="append",
        # What conflicts with a delivered event does so for ever, and would be refused as another letter each time.
        choices=sorted(set(Reason) - {Reason.CONFLICTING_PAYLOAD}),
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
    problems: list[str] = []
    with publisher() as client, Progress(console=Console(stderr=True), transient=True) as progress:
        check_topic(client, flags.topic)
        outbox = Outbox(client, flags.topic)
        task = progress.add_task("hours replayed", total=len(asked))
        known = 0
        for bucket in asked:
            for letter in undelivered(buckets, bucket, frozenset(flags.reason), now, flags.allowed_lateness, problems):
                if letter is None:
                    known += 1
                elif problem := outbox.add(letter):
                    problems.append(f"{bucket.folder}: {problem}")
            progress.advance(task)
        outbox.flush()
    print(f"{outbox.published} dead letters published again; {known} more are delivered already")
    if problems:
        more = [f"and {len(problems) - NAMED} more"] if len(problems) > NAMED else []
        raise UserError("\n  ".join(["all others were replayed, but not these:", *problems[:NAMED], *more]))
    return 0


def undelivered(
    buckets: Buckets, bucket: Bucket, reasons: frozenset[str], now: datetime, allowed_lateness: timedelta, problems: list[str]
) -> Iterator[Letter | None]:
    """The bucket's dead letters of these reasons, None in place of each whose event is delivered. What is damaged is added to
    `problems`, and does not keep the rest from being read."""
    try:
        parts = shown_receipt(buckets, bucket).parts
    except DAMAGE as error:
        problems.append(str(error))
        return
    for part in parts:
        try:
            known = delivered_already(buckets, read_letters(buckets, bucket, part, reasons), now, allowed_lateness)
            for letter in read_letters(buckets, bucket, part, reasons):
                yield None if (letter.event_type, letter.hashed) in known else letter
        except DAMAGE as error:
            problems.append(str(error))


class Outbox:
    """Publishes letters, and waits for the answers before there are too many. published: how many Pub/Sub has taken."""

    def __init__(self, client: pubsub_v1.PublisherClient, topic: str) -> None:
        self.published = 0
        self._client = client
        self._topic = topic
        self._answers: list[pubsub_v1.publisher.futures.Future] = []
        self._bytes = 0

    def add(self, letter: Letter) -> str | None:
        """Why the letter can't be published, if it can't. Raises PubSubError as `flush` does."""
        if len(letter.attributes) > MOST_ATTRIBUTES:
            return f"message {letter.message_id} would have more than {MOST_ATTRIBUTES} attributes, which Pub/Sub does not take"
        try:
            answer = self._client.publish(self._topic, letter.data, retry=_RETRY, timeout=REQUEST_SECONDS, **letter.attributes)
        except MessageTooLargeError:
            return f"message {letter.message_id} would be larger than Pub/Sub takes"
        self._answers.append(answer)
        self._bytes += len(letter.data)
        if len(self._answers) >= MOST_UNANSWERED or self._bytes >= MOST_UNANSWERED_BYTES:
            self.flush()
        return None

    def flush(self) -> None:
        """Waits until all is published. Raises PubSubError where Pub/Sub refuses, or is away for longer than AWAY_SECONDS."""
        until = time.monotonic() + AWAY_SECONDS + REQUEST_SECONDS
        for answer in self._answers:
            try:
                answer.result(timeout=max(0.0, until - time.monotonic()))
            except (GoogleAPIError, TimeoutError) as error:
                why = told(error) if isinstance(error, GoogleAPIError) else "no answer"
                raise PubSubError(
                    f"{self._topic}: Pub/Sub took {self.published} dead letters, and then no more: {why}. "
                    "Mend that, and run it again: what is delivered by then is not published again."
                ) from None
            self.published += 1
        self._answers, self._bytes = [], 0


if __name__ == "__main__":
    sys.exit(run_main(main))
