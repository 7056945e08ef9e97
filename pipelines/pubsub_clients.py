"""Clients of Cloud Pub/Sub, or of the emulator or broker that the environment variable PUBSUB_EMULATOR_HOST names.

Both functions that return a client raise UserError if there are neither credentials nor an emulator.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
from google.auth.exceptions import DefaultCredentialsError
from google.cloud import pubsub_v1
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport

from cli.command import UserError
from transforms.pubsub.retry import CHECK_NETWORK


def publisher() -> pubsub_v1.PublisherClient:
    """Return a client that publishes in the background and retries failed requests for a limited time."""
    with _explain_missing_credentials():
        return pubsub_v1.PublisherClient()


def subscriber() -> pubsub_v1.SubscriberClient:
    """Return a client that accepts responses of any size."""
    host = os.environ.get("PUBSUB_EMULATOR_HOST")
    if not host:
        with _explain_missing_credentials():
            return pubsub_v1.SubscriberClient()
    # For an emulator, the library makes a client that accepts responses of at most 4 MiB; a message may have 10 MB.
    channel = grpc.insecure_channel(host, options=[("grpc.max_receive_message_length", -1)])
    return pubsub_v1.SubscriberClient(transport=SubscriberGrpcTransport(channel=channel))


def if_unreachable() -> str:
    """Return the remedy to name if Pub/Sub does not answer."""
    if os.environ.get("PUBSUB_EMULATOR_HOST"):
        return "start the broker (python -m local.pubsub) or unset PUBSUB_EMULATOR_HOST"
    return CHECK_NETWORK


@contextmanager
def _explain_missing_credentials() -> Iterator[None]:
    try:
        yield
    except DefaultCredentialsError:
        raise UserError(
            "there are no Google credentials for Pub/Sub. What to do: run `gcloud auth application-default login`, "
            "or set PUBSUB_EMULATOR_HOST to the host:port of an emulator or of local.pubsub"
        ) from None
