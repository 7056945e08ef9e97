"""python -m local.pubsub: the line that says it is ready, its ends, and what is used wrongly."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from google.cloud import pubsub_v1

from local.pubsub.broker import Broker
from tests.support.pubsub import make_subscription, make_topic, publish, pull_now, subscriber

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_the_command_serves_clients_that_find_it_in_the_environment(monkeypatch, end):
    with command("--port", "0") as process:
        assert process.stdout
        name, _, address = process.stdout.readline().strip().partition("=")
        monkeypatch.setenv(name, address)
        topic = make_topic(address)
        with pubsub_v1.PublisherClient() as topics, pubsub_v1.SubscriberClient() as client:
            subscription = make_subscription(address, topic)
            topics.publish(topic, b"x").result(timeout=10)
            assert [received.message.data for received in pull_now(client, subscription)] == [b"x"]
        process.send_signal(end)
        assert process.communicate(timeout=10) == ("", "")
        assert process.returncode == 0


def test_the_command_says_in_one_line_that_its_port_is_in_use():
    with Broker() as broker, command("--port", broker.address.rpartition(":")[2]) as process:
        output, errors = process.communicate(timeout=10)
    assert (process.returncode, output, errors.count("\n")) == (1, "", 1)
    assert broker.address in errors
    assert "in use" in errors


@pytest.mark.parametrize("port", ["x", "-1", "65536"])
def test_the_command_refuses_what_is_no_port(port):
    with command(f"--port={port}") as process:
        _, errors = process.communicate(timeout=10)
    assert process.returncode == 2
    assert port in errors.splitlines()[-1]
    assert "Traceback" not in errors


def test_the_command_makes_topics_with_subscriptions_of_the_same_names():
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
        process.communicate(timeout=10)


@pytest.mark.parametrize("topics", [["events"], ["projects/p/topics/same", "projects/p/topics/same"]])
def test_the_command_says_in_one_line_that_a_topic_can_not_be(topics):
    with command("--port=0", *[f"--topic={topic}" for topic in topics]) as process:
        output, errors = process.communicate(timeout=10)
    assert (process.returncode, output, errors.count("\n")) == (1, "", 1)
    assert topics[0] in errors


def command(*flags: str) -> subprocess.Popen[str]:
    root = Path(__file__).parents[3]
    return subprocess.Popen(
        [sys.executable, "-m", "local.pubsub", *flags], cwd=root, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
