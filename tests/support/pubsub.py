"""Pub/Sub for tests: the project's broker, the official emulator where it is installed, ordinary clients, and short cuts."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import grpc
import pytest
from google.cloud import pubsub_v1
from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport
from google.pubsub_v1.types import ReceivedMessage

from local.pubsub.broker import Broker

PROJECT = "test-project"
SDK_ROOTS = (
    "/usr/lib/google-cloud-sdk",
    "/usr/share/google-cloud-sdk",
    "/opt/google-cloud-sdk",
    "/snap/google-cloud-cli/current",
)


class FakeClock:
    """Seconds since 1970 that stand still until they are moved."""

    def __init__(self, now: float = 1_790_000_000.25) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(scope="session")
def broker_address() -> Iterator[str]:
    """The project's own broker, as host:port."""
    with Broker() as broker:
        yield broker.address


@pytest.fixture(scope="session")
def emulator_address() -> Iterator[str]:
    """The official emulator, as host:port. Skips where the gcloud SDK's jar or Java is not found."""
    jar = emulator_jar()
    java = shutil.which("java")
    if not jar or not java:
        pytest.skip("the official Pub/Sub emulator needs the gcloud SDK's pubsub-emulator and java")
    with running_emulator(java, jar) as address:
        yield address


def emulator_jar() -> Path | None:
    """The emulator's jar, beside the gcloud command or where the SDK usually lies."""
    gcloud = shutil.which("gcloud")
    beside = [Path(gcloud).resolve().parents[1]] if gcloud else []
    for root in [*beside, *map(Path, SDK_ROOTS), Path.home() / "google-cloud-sdk"]:
        for jar in sorted(root.glob("platform/pubsub-emulator/lib/*.jar")):
            return jar
    return None


@contextmanager
def running_emulator(java: str, jar: Path) -> Iterator[str]:
    # The jar itself, because a gcloud that is ended leaves its Java running.
    address = f"127.0.0.1:{free_port()}"
    host, port = address.split(":")
    process = subprocess.Popen(
        [java, "-jar", str(jar), f"--host={host}", f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        with grpc.insecure_channel(address) as channel:
            grpc.channel_ready_future(channel).result(timeout=30)
        yield address
    finally:
        process.terminate()
        process.wait(10)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def publisher(address: str, batches: pubsub_v1.types.BatchSettings | None = None) -> pubsub_v1.PublisherClient:
    """The ordinary client for `address`. Neither reads nor changes the environment, and looks for no credentials."""
    return pubsub_v1.PublisherClient(batches or (), transport=PublisherGrpcTransport(channel=channel_to(address)))


def subscriber(address: str) -> pubsub_v1.SubscriberClient:
    """The ordinary client for `address`, which takes messages of any size. (One made through the environment takes 4 MiB.)"""
    return pubsub_v1.SubscriberClient(transport=SubscriberGrpcTransport(channel=channel_to(address)))


def channel_to(address: str) -> grpc.Channel:
    return grpc.insecure_channel(address, options=[("grpc.max_receive_message_length", -1)])


def make_topic(address: str) -> str:
    """Makes a topic of a new name, and returns its full name."""
    topic = f"projects/{PROJECT}/topics/topic-{uuid4().hex}"
    with publisher(address) as client:
        client.create_topic(name=topic)
    return topic


def make_subscription(address: str, topic: str, ack_deadline_seconds: int = 60) -> str:
    """Makes a subscription of a new name, and returns its full name."""
    subscription = f"projects/{PROJECT}/subscriptions/subscription-{uuid4().hex}"
    with subscriber(address) as client:
        client.create_subscription(name=subscription, topic=topic, ack_deadline_seconds=ack_deadline_seconds)
    return subscription


def publish(address: str, topic: str, *payloads: bytes, **attributes: str) -> list[str]:
    """Publishes each payload with the attributes, and returns the message ids in the same order."""
    with publisher(address) as client:
        futures = [client.publish(topic, payload, **attributes) for payload in payloads]
        return [future.result(timeout=30) for future in futures]


def pull(client: pubsub_v1.SubscriberClient, subscription: str, count: int, seconds: float = 10) -> list[ReceivedMessage]:
    """Pulls until there are `count` messages, or `seconds` have passed. Acks none."""
    messages: list[ReceivedMessage] = []
    until = time.monotonic() + seconds
    while len(messages) < count and (left := until - time.monotonic()) > 0:
        # Not above two seconds: the emulator wakes late for a lease that ends.
        request = {"subscription": subscription, "max_messages": count - len(messages)}
        messages += client.pull(request, timeout=min(left + 0.5, 2), retry=None).received_messages
    return messages


def pull_now(client: pubsub_v1.SubscriberClient, subscription: str, most: int = 1000) -> list[ReceivedMessage]:
    """What one pull gives that does not wait."""
    request = {"subscription": subscription, "max_messages": most, "return_immediately": True}
    return list(client.pull(request).received_messages)
