"""python -m local.pubsub: its first line, how it ends, and invalid flags."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from google.cloud import pubsub_v1

from local.pubsub.broker import Broker
from tests.support.clock import PATIENCE
from tests.support.pubsub import make_subscription, make_topic, publish, pull_now, subscriber

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_main__serves_clients(monkeypatch, number):
    """Clients find the broker by the printed variable, and a signal ends it with status 0."""
    with command("--port", "0") as process:
        assert process.stdout
        name, _, address = process.stdout.readline().strip().partition("=")
        monkeypatch.setenv(name, address)
        topic = make_topic(address)
        with pubsub_v1.PublisherClient() as topics, pubsub_v1.SubscriberClient() as client:
            subscription = make_subscription(address, topic)
            topics.publish(topic, b"x").result(timeout=PATIENCE)
            assert [received.message.data for received in pull_now(client, subscription)] == [b"x"]
        process.send_signal(number)
        assert process.communicate(timeout=PATIENCE) == ("", "")
        assert process.returncode == 0


def test_main__port_in_use():
    """A port in use is a one-line error."""
    with Broker() as broker, command("--port", broker.address.rpartition(":")[2]) as process:
        output, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, output, errors.count("\n")) == (2, "", 1)
    assert errors.startswith(f"error: can't listen on {broker.address}: ")
    assert "in use" in errors


@pytest.mark.parametrize("port", ["x", "-1", "65536"])
def test_main__invalid_port(port):
    """An invalid port is an error of usage."""
    with command(f"--port={port}") as process:
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    assert port in errors.splitlines()[-1]
    assert "Traceback" not in errors


def test_main__topics():
    """Each --topic has a subscription of the same name."""
    topics = [f"projects/test-project/topics/{name}" for name in ("events", "audit")]
    with command("--port=0", *[f"--topic={topic}" for topic in topics]) as process:
        assert process.stdout
        address = process.stdout.readline().strip().partition("=")[2]
        with subscriber(address) as client:
            for topic in topics:
                publish(address, topic, topic.encode())
                name = topic.replace("topics", "subscriptions")
                assert [received.message.data for received in pull_now(client, name)] == [topic.encode()]
        process.terminate()
        process.communicate(timeout=PATIENCE)


@pytest.mark.parametrize("topics", [["events"], ["projects/p/topics/same", "projects/p/topics/same"]])
def test_main__invalid_topic(topics):
    """An invalid or repeated topic is a one-line error."""
    with command("--port=0", *[f"--topic={topic}" for topic in topics]) as process:
        output, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, output, errors.count("\n")) == (2, "", 1)
    assert errors.startswith("error: can't create a topic of --topic: ")
    assert topics[0] in errors


def command(*flags: str) -> subprocess.Popen[str]:
    root = Path(__file__).parents[3]
    return subprocess.Popen(
        [sys.executable, "-m", "local.pubsub", *flags], cwd=root, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
