"""Clients that depend on the environment: for Pub/Sub, or for the emulator or broker that PUBSUB_EMULATOR_HOST names.

Both raise UserError where there are neither credentials nor an emulator.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
from google.auth.exceptions import DefaultCredentialsError
from google.cloud import pubsub_v1
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport

from pipelines.command import UserError


def publisher() -> pubsub_v1.PublisherClient:
    """Publishes in the background, and repeats what fails for a while."""
    with _credentials_told():
        return pubsub_v1.PublisherClient()


def subscriber() -> pubsub_v1.SubscriberClient:
    """Takes answers of any size."""
    host = os.environ.get("PUBSUB_EMULATOR_HOST")
    if not host:
        with _credentials_told():
            return pubsub_v1.SubscriberClient()
    # The client that the library makes for an emulator takes answers of up to 4 MiB only; a message may have 10 MB.
    channel = grpc.insecure_channel(host, options=[("grpc.max_receive_message_length", -1)])
    return pubsub_v1.SubscriberClient(transport=SubscriberGrpcTransport(channel=channel))


@contextmanager
def _credentials_told() -> Iterator[None]:
    try:
        yield
    except DefaultCredentialsError:
        raise UserError(
            "there are no Google credentials for Pub/Sub. Run `gcloud auth application-default login`, "
            "or set PUBSUB_EMULATOR_HOST to the host:port of an emulator or of local.pubsub."
        ) from None
