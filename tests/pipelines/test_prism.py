"""The cause of a stream's failure, read from the text in which Prism reports it."""

from __future__ import annotations

import pytest

from pipelines.prism import what_failed
from storage.objects.base import Damaged
from transforms.pubsub.retry import PubSubError

REPORT = """bundle inst003 stage-007 failed: Traceback (most recent call last):
  File "storage/objects/local.py", line 7, in read
storage.objects.base.NotFound: a: it is not there

During handling of the above exception, another exception occurred:

  File "apache_beam/runners/common.py", line 1500, in process
{name}: out/events/a: it is not
  the file that was committed. Restore it. [while running 'Commit buckets/Commit']

goroutine 7: more"""


@pytest.mark.parametrize("kind", [Damaged, PubSubError])
def test_what_failed__is_our_last_error_in_one_line(kind: type[Exception]) -> None:
    error = what_failed(RuntimeError(REPORT.format(name=f"{kind.__module__}.{kind.__qualname__}")))
    assert (type(error), str(error)) == (kind, "out/events/a: it is not the file that was committed. Restore it.")


def test_what_failed__keeps_an_unknown_error() -> None:
    error = RuntimeError("KeyError: 'hour'")
    assert what_failed(error) is error
