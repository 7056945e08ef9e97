"""Clients that depend on the environment."""

from __future__ import annotations

import os

import grpc
from google.cloud import pubsub_v1
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport


def subscriber() -> pubsub_v1.SubscriberClient:
    """A client for Pub/Sub, or for the emulator or broker that PUBSUB_EMULATOR_HOST names."""
    host = os.environ.get("PUBSUB_EMULATOR_HOST")
    if not host:
        return pubsub_v1.SubscriberClient()
    # The client that the library makes for an emulator takes answers of up to 4 MiB only; a message may have 10 MB.
    channel = grpc.insecure_channel(host, options=[("grpc.max_receive_message_length", -1)])
    return pubsub_v1.SubscriberClient(transport=SubscriberGrpcTransport(channel=channel))
