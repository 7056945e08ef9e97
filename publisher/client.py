"""The client library: events to Pub/Sub, no answer unread, and a report of what was taken."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from datetime import UTC, datetime
from types import TracebackType
from typing import NamedTuple

import orjson
from google.auth.exceptions import GoogleAuthError
from google.cloud.pubsub_v1 import PublisherClient

from publisher.client_settings import ANSWER_SECONDS, check_name, check_topic, make_client, refusal
from publisher.counts import Acknowledged, Ledger, claimed_hour
from publisher.errors import Failure, Outgoing, PublisherError, Unreported, one_line
from schemas.audit_reports import PublishedReport
from schemas.envelope import (
    CONTENT_TYPE,
    DEDUP_KEY,
    EVENT_ID,
    EVENT_TYPE,
    RECEIVED_AT,
    SCHEMA_VERSION,
    SENT_AT,
    format_time,
)

_COLLECT_EVERY = 2_000
"""Messages between two looks at the answers: seldom enough to cost little, often enough to hold few."""


class _Pending(NamedTuple):
    event: Outgoing
    hour: datetime
    answer: Future[str]


def _now() -> datetime:
    return datetime.now(UTC)


def _new_id() -> str:
    return str(uuid.uuid4())


class EventPublisher:
    """Publishes events to one topic and, if given an audit topic, reports there what Pub/Sub has acknowledged.

    `publish` returns before the answer is there; it blocks only while too much is under way (publisher/client_settings.py).
    A publish is retried for PUBLISH_DEADLINE_SECONDS. What is still not acknowledged then, or was refused, is in
    `failures`: an event is either counted or there. A failed event may have been taken all the same, its answer
    lost; to publish it again under its id does no harm.

    Use it as a context manager, or call `close` at the end: before that, answers are outstanding and nothing is
    reported. A publisher that lives long calls `report` now and then. `publish` may be called by several threads.

    topic, audit_topic: projects/P/topics/NAME; reporter: differs for each run of each publisher, new_id() by
    default; client: not closed here, and it should have the settings of publisher.client_settings.make_client.
    Raises PublisherError for topics of another form or that are the same, and where there are no credentials.
    """

    def __init__(
        self,
        topic: str,
        audit_topic: str | None = None,
        reporter: str | None = None,
        clock: Callable[[], datetime] = _now,
        new_id: Callable[[], str] = _new_id,
        client: PublisherClient | None = None,
    ) -> None:
        self._topics = [topic] if audit_topic is None else [topic, audit_topic]
        for name in self._topics:
            check_name(name)
        if topic == audit_topic:
            raise PublisherError(
                f"events and reports can't share the topic {topic}. What to do: give the reports a topic of their own"
            )
        try:
            self._client = client or make_client()
        except GoogleAuthError as error:
            hint = "What to do: set GOOGLE_APPLICATION_CREDENTIALS, or PUBSUB_EMULATOR_HOST for a local broker"
            raise PublisherError(f"no credentials for Pub/Sub: {one_line(error)}. {hint}") from None
        self._owns_client = client is None
        self._topic = topic
        self._audit_topic = audit_topic
        self.reporter = new_id() if reporter is None else reporter
        self._clock = clock
        self._new_id = new_id
        self._ledger = Ledger()
        self._lock = threading.Lock()
        self._pending: list[_Pending] = []
        self._collect_at = _COLLECT_EVERY
        self._closed = False
        self.acknowledged = 0
        self.reported = 0
        self.failures: list[Failure] = []
        self.unreported: list[Unreported] = []

    def __enter__(self) -> EventPublisher:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def check(self) -> None:
        """Raises PublisherError when a topic does not exist, or when Pub/Sub does not answer within CHECK_SECONDS.

        Who may publish need not be allowed to look at the topic: then this says nothing, and publishing will tell.
        """
        for topic in self._topics:
            check_topic(self._client, topic)

    def publish(
        self,
        event_type: str | None,
        payload: Mapping[str, object] | bytes,
        *,
        event_id: str | None = None,
        received_at: datetime | None = None,
        schema_version: int | None = None,
        content_type: str | None = None,
        sent_at: datetime | None = None,
        attributes: Mapping[str, str] | None = None,
        source: object = None,
    ) -> None:
        """Publishes one event: a mapping as JSON, bytes as they are (content_type says what they are; JSON by default).

        event_id: one from new_id where there is none or an empty one, so that a retry can be known as one; received_at: the
        clock's time by default, so that both ends agree on the hour even when Pub/Sub is slow to take it; attributes: more
        of them, which can't replace those of the envelope. Raises TypeError for a payload that has no JSON form, ValueError
        for a time without a zone, RuntimeError after `close`.
        """
        attributes_sent = dict(attributes or {})
        if event_type is not None:
            attributes_sent[EVENT_TYPE] = event_type
        attributes_sent[EVENT_ID] = event_id or self._new_id()
        attributes_sent[RECEIVED_AT] = _time(self._clock() if received_at is None else received_at)
        if schema_version is not None:
            attributes_sent[SCHEMA_VERSION] = str(schema_version)
        if content_type is not None:
            attributes_sent[CONTENT_TYPE] = content_type
        if sent_at is not None:
            attributes_sent[SENT_AT] = _time(sent_at)
        data = payload if isinstance(payload, bytes) else orjson.dumps(payload)
        # The client library may send a message twice, which counts once. What is published twice counts twice: both have to
        # be seen, since the second may be right where the first was not, and belong to another hour.
        attributes_sent[DEDUP_KEY] = self._new_id()
        self.publish_raw(data, attributes_sent, source)

    def publish_raw(self, data: bytes, attributes: Mapping[str, str], source: object = None) -> None:
        """Publishes a message as it is, however broken, and counts it under the type and hour that it claims.

        A message without event_type counts under ""; one without event_id, or with an empty one, by its message id.
        """
        if self._closed:
            raise RuntimeError("the publisher is closed")
        event = Outgoing(data, attributes, source)
        refused = refusal(data, attributes)
        if refused is not None:
            with self._lock:
                self.failures.append(Failure(event, refused))
            return
        hour = claimed_hour(attributes, self._clock())
        answer: Future[str] = self._client.publish(self._topic, data, **attributes)
        with self._lock:
            self._pending.append(_Pending(event, hour, answer))
            if len(self._pending) >= self._collect_at:
                self._collect(wait=False)

    def expect(self, event_type: str, hour: datetime) -> None:
        """Makes the next report tell of this type and hour, with a zero if nothing is published: see Ledger.expect."""
        with self._lock:
            self._ledger.expect(event_type, hour)

    def report(self) -> None:
        """Waits for every answer, then publishes what was counted since the last report.

        What can't be published is in `unreported`, and goes out again, under the same id, with the next report.
        """
        with self._lock:
            self._collect(wait=True)
            if self._audit_topic is None:
                return
            due = [lost.report for lost in self.unreported] + self._ledger.reports(self.reporter)
            self.unreported = [Unreported(report, "no answer yet") for report in due]
            answers = [self._send(self._audit_topic, report) for report in due]
            deadline = time.monotonic() + ANSWER_SECONDS
            errors = [_error(answer, deadline) for answer in answers]
            self.unreported = [Unreported(report, error) for report, error in zip(due, errors, strict=True) if error]
            self.reported += len(due) - len(self.unreported)

    def close(self) -> None:
        """Waits for every answer, reports, and ends the client if it was made here. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        try:
            self.report()
        finally:
            if self._owns_client:
                self._client.stop()
                self._client.transport.close()

    def _send(self, audit_topic: str, report: PublishedReport) -> Future[str]:
        answer: Future[str] = self._client.publish(audit_topic, report.to_json(), report="published", report_id=report.id)
        return answer

    def _collect(self, wait: bool) -> None:
        """Count the answers that are there, or all of them. Holds the lock, so that no answer is between two places."""
        deadline = time.monotonic() + ANSWER_SECONDS
        waiting: list[_Pending] = []
        acknowledged: list[Acknowledged] = []
        for pending in self._pending:
            if not wait and not pending.answer.done():
                waiting.append(pending)
                continue
            error = _error(pending.answer, deadline)
            if error is not None:
                self.failures.append(Failure(pending.event, error))
                continue
            attributes = pending.event.attributes
            event_id = attributes.get(EVENT_ID) or pending.answer.result()
            acknowledged.append(Acknowledged(attributes.get(EVENT_TYPE, ""), pending.hour, event_id))
        self._pending = waiting
        self._collect_at = len(waiting) + _COLLECT_EVERY
        self._ledger.add(acknowledged)
        self.acknowledged += len(acknowledged)


def _time(moment: datetime) -> str:
    if moment.tzinfo is None:
        raise ValueError(f"{moment} has no time zone")
    return format_time(moment)


def _error(answer: Future[str], deadline: float) -> str | None:
    """Waits for an answer, and says in one line what is wrong with it."""
    try:
        error = answer.exception(timeout=max(0.0, deadline - time.monotonic()))
    except TimeoutError:
        return f"no answer within {ANSWER_SECONDS:.0f} s"
    return None if error is None else one_line(error)
