"""A batch of archived messages as a source."""

from __future__ import annotations

from collections import deque

import apache_beam as beam
import pytest
from apache_beam.io.gcp.pubsub import PubsubMessage
from apache_beam.testing.util import assert_that, equal_to

from pipelines.runners import LOCAL, beam_options
from transforms.recovery.archive_source import ReadBatch, _drain


def messages(*payloads: bytes) -> deque[PubsubMessage]:
    return deque(PubsubMessage(payload, {}, "1", None) for payload in payloads)


def test_read_batch__emits_and_releases_each_message() -> None:
    batch = messages(b"a", b"b", b"c")
    with beam.Pipeline(options=beam_options(LOCAL, [])) as pipeline:
        assert_that(pipeline | ReadBatch(batch) | beam.Map(lambda message: message.data), equal_to([b"a", b"b", b"c"]))
    assert not batch


def test_read_batch__a_second_read_fails() -> None:
    """A retried step fails: an empty read must not count as the whole batch."""
    read = ReadBatch(messages(b"a", b"b"))
    assert next(_drain(b"", read._shared)).data == b"a"
    with pytest.raises(IndexError):
        next(_drain(b"", read._shared))
