"""Step 5: publish the counters of each manifest on the audit topic."""

from __future__ import annotations

import time
from collections.abc import Callable

import apache_beam as beam
from google.api_core.exceptions import GoogleAPIError
from google.cloud import pubsub_v1

from storage.buckets.manifest import Manifest
from transforms.metrics import REPORTS_PUBLISHED
from transforms.pubsub.retry import PubSubError, message_of

REPORT_SECONDS = 60.0
"""How long Pub/Sub may take to accept the reports of a bundle. The client retries failed requests within this time."""


class Report(beam.PTransform):  # type: ignore[misc]
    """Publish a report of each manifest. A retry carries the same report id, by which the audit recognizes it.

    Input: manifests. Output: nothing. A bundle fails with PubSubError if Pub/Sub does not accept all of its reports.
    """

    def __init__(self, topic: str, make_client: Callable[[], pubsub_v1.PublisherClient]) -> None:
        """Report on `topic`, with a client that `make_client` creates in the worker."""
        super().__init__()
        self._fn = _Report(topic, make_client)

    def expand(self, manifests: beam.PCollection) -> beam.PCollection:
        return manifests | "Publish report" >> beam.ParDo(self._fn).with_output_types(bytes)


class _Report(beam.DoFn):  # type: ignore[misc]
    def __init__(self, topic: str, make_client: Callable[[], pubsub_v1.PublisherClient]) -> None:
        self._topic = topic
        self._make_client = make_client

    def setup(self) -> None:
        self._client = self._make_client()

    def start_bundle(self) -> None:
        self._futures: list[pubsub_v1.publisher.futures.Future] = []

    def process(self, element: Manifest) -> None:
        report = element.report()
        self._futures.append(self._client.publish(self._topic, report.to_json(), report="delivered", report_id=report.id))

    def finish_bundle(self) -> None:
        deadline = time.monotonic() + REPORT_SECONDS
        for future in self._futures:
            try:
                future.result(timeout=max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                raise PubSubError(
                    f"{self._topic}: Pub/Sub accepted no report for {REPORT_SECONDS:.0f} s. "
                    "What to do: check the network and the service, then run the command again"
                ) from None
            except GoogleAPIError as error:
                raise PubSubError(
                    f"{self._topic}: Pub/Sub refused a report: {message_of(error)}. "
                    "What to do: correct the topic or its permissions, then run the command again"
                ) from None

        REPORTS_PUBLISHED.beam.inc(len(self._futures))

    def teardown(self) -> None:
        self._client.stop()
