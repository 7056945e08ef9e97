"""python -m local.pubsub: the line that says it is ready, its ends, and what is used wrongly."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from google.cloud import pubsub_v1

from local.pubsub import Broker
from tests.support.pubsub import make_subscription, make_topic, pull_now

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


def command(*flags: str) -> subprocess.Popen[str]:
    root = Path(__file__).parents[2]
    return subprocess.Popen(
        [sys.executable, "-m", "local.pubsub", *flags], cwd=root, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
