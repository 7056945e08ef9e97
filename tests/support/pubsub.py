"""Pub/Sub for tests: the project's broker, the official emulator if installed, ordinary clients, and short cuts."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import cycle, islice
from pathlib import Path
from uuid import uuid4

import grpc
import pytest
from google.cloud import pubsub_v1
from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport
from google.pubsub_v1.types import ReceivedMessage

from local.pubsub.broker import Broker
from tests.support.clock import CLOCK, PATIENCE

PROJECT = "test-project"
PULL_SECONDS = 60.0
"""Time limit of a pull in tests, far longer than a response takes."""
SDK_ROOTS = (
    "/usr/lib/google-cloud-sdk",
    "/usr/share/google-cloud-sdk",
    "/opt/google-cloud-sdk",
    "/snap/google-cloud-cli/current",
)


class FakeClock:
    """A clock, in seconds since 1970, that stands still until a test advances it."""

    def __init__(self, now: float = 1_790_000_000.25) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(scope="session")
def broker_address() -> Iterator[str]:
    """Run the project's own broker and yield its host:port."""
    with Broker(clock=CLOCK.seconds) as broker:
        yield broker.address


@pytest.fixture(scope="session")
def emulator_address() -> Iterator[str]:
    """Run the official emulator and yield its host:port. Skips the test without Java or the gcloud SDK's jar."""
    jar = emulator_jar()
    java = shutil.which("java")
    if not jar or not java:
        pytest.skip("the official Pub/Sub emulator needs the gcloud SDK's pubsub-emulator and java")
    with running_emulator(java, jar) as address:
        yield address


def emulator_jar() -> Path | None:
    """Return the emulator's jar, from the folder of the gcloud command or a usual place of the SDK."""
    gcloud = shutil.which("gcloud")
    own_root = [Path(gcloud).resolve().parents[1]] if gcloud else []
    for root in [*own_root, *map(Path, SDK_ROOTS), Path.home() / "google-cloud-sdk"]:
        for jar in sorted(root.glob("platform/pubsub-emulator/lib/*.jar")):
            return jar
    return None


@contextmanager
def running_emulator(java: str, jar: Path) -> Iterator[str]:
    # Run the jar itself: a gcloud command that is terminated leaves its Java process running.
    address = f"127.0.0.1:{free_port()}"
    host, port = address.split(":")
    process = subprocess.Popen(
        [java, "-jar", str(jar), f"--host={host}", f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        with grpc.insecure_channel(address) as channel:
            grpc.channel_ready_future(channel).result(timeout=PATIENCE)
        yield address
    finally:
        process.terminate()
        process.wait(10)


def free_port() -> int:
    """Return a TCP port that no process listens on.

    It stays free: the system assigns none of these ports to processes that ask for any port, and each test process has a
    range of its own.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    for number in _numbers:
        port = 20_000 + worker % 12 * 1_000 + number
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no free port")


_numbers = islice(cycle(range(1_000)), 10_000)


def answer_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let brokers of this process answer an empty pull soon, and let clients wait for the response.

    A client that gave up a pull on a slow machine would end its run early.
    """
    monkeypatch.setattr("local.pubsub.services.MAX_WAIT_SECONDS", 0.2)
    monkeypatch.setattr("transforms.pubsub.leases.PULL_SECONDS", PULL_SECONDS)


def publisher(address: str, batches: pubsub_v1.types.BatchSettings | None = None) -> pubsub_v1.PublisherClient:
    """Return the ordinary client for `address`. Neither reads nor changes the environment; uses no credentials."""
    return pubsub_v1.PublisherClient(batches or (), transport=PublisherGrpcTransport(channel=channel_to(address)))


def subscriber(address: str) -> pubsub_v1.SubscriberClient:
    """Return the ordinary client for `address`, for messages of any size.

    A client that is made through the environment has a limit of 4 MiB.
    """
    return pubsub_v1.SubscriberClient(transport=SubscriberGrpcTransport(channel=channel_to(address)))


def channel_to(address: str) -> grpc.Channel:
    return grpc.insecure_channel(address, options=[("grpc.max_receive_message_length", -1)])


def make_topic(address: str) -> str:
    """Create a topic with a unique name and return its full name."""
    topic = f"projects/{PROJECT}/topics/topic-{uuid4().hex}"
    with publisher(address) as client:
        client.create_topic(name=topic)
    return topic


def make_subscription(address: str, topic: str, ack_deadline_seconds: int = 60) -> str:
    """Create a subscription with a unique name and return its full name."""
    subscription = f"projects/{PROJECT}/subscriptions/subscription-{uuid4().hex}"
    with subscriber(address) as client:
        client.create_subscription(name=subscription, topic=topic, ack_deadline_seconds=ack_deadline_seconds)
    return subscription


def publish(address: str, topic: str, *payloads: bytes, **attributes: str) -> list[str]:
    """Publish each payload with the attributes and return the message ids in the same order."""
    with publisher(address) as client:
        futures = [client.publish(topic, payload, **attributes) for payload in payloads]
        return [future.result(timeout=PATIENCE) for future in futures]


def pull(client: pubsub_v1.SubscriberClient, subscription: str, count: int, seconds: float = PATIENCE) -> list[ReceivedMessage]:
    """Pull until there are `count` messages or `seconds` have passed. Acknowledges none."""
    messages: list[ReceivedMessage] = []
    deadline = time.monotonic() + seconds
    while len(messages) < count and (remaining := deadline - time.monotonic()) > 0:
        # At most two seconds: the emulator is slow to offer a message whose lease has expired.
        request = {"subscription": subscription, "max_messages": count - len(messages)}
        messages += client.pull(request, timeout=min(remaining + 0.5, 2), retry=None).received_messages
    return messages


def pull_now(client: pubsub_v1.SubscriberClient, subscription: str, most: int = 1000) -> list[ReceivedMessage]:
    """Return the messages of one pull that does not wait."""
    request = {"subscription": subscription, "max_messages": most, "return_immediately": True}
    return list(client.pull(request).received_messages)
