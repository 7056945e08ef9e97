"""Streams, and clients that wait or disconnect."""

from __future__ import annotations

import threading
import time
from queue import SimpleQueue
from typing import Any

import grpc
import pytest
from google.api_core.exceptions import InvalidArgument, NotFound
from google.cloud import pubsub_v1
from google.pubsub_v1.types import (
    DeleteSubscriptionRequest,
    PullRequest,
    StreamingPullRequest,
    Subscription,
    Topic,
)

from local.pubsub.broker import Broker
from local.pubsub.resources import Resources
from local.pubsub.services import MAX_WAIT_SECONDS, Stream
from tests.support.pubsub import (
    PROJECT,
    channel_to,
    make_subscription,
    make_topic,
    publish,
    pull_now,
)

PROJECT_NAME = f"projects/{PROJECT}"


def test_streaming_pull__flow_control(address, clock, client, topic, subscription):
    """A stream acknowledges, extends, and has leases of at most max_outstanding_messages."""
    publish(address, topic, b"1", b"2", b"3", b"4")
    requests: SimpleQueue[StreamingPullRequest | None] = SimpleQueue()
    responses = streaming(client, requests, subscription, max_outstanding_messages=3)
    first = next(responses).received_messages
    assert [received.message.data for received in first] == [b"1", b"2", b"3"]
    acknowledged, extended, _ = (received.ack_id for received in first)
    requests.put(
        StreamingPullRequest(ack_ids=[acknowledged], modify_deadline_ack_ids=[extended], modify_deadline_seconds=[600])
    )
    assert [received.message.data for received in next(responses).received_messages] == [b"4"]
    requests.put(None)
    assert list(responses) == [], "a stream ends when its client ends its requests"
    clock.advance(20)
    assert [received.message.data for received in pull_now(client, subscription)] == [b"3", b"4"]


def test_streaming_pull__errors(client, topic, subscription):
    """A stream ends with an error on an invalid request, and if its subscription is deleted."""
    requests: SimpleQueue[StreamingPullRequest | None] = SimpleQueue()
    responses = streaming(client, requests, subscription)
    requests.put(StreamingPullRequest(modify_deadline_ack_ids=["1-1-1"]))
    with pytest.raises(InvalidArgument):
        next(responses)
    responses = streaming(client, SimpleQueue(), subscription)
    later = threading.Timer(0.2, lambda: client.delete_subscription(subscription=subscription))
    later.start()
    with pytest.raises(NotFound):
        next(responses)
    later.join()


def test_take__recreated_subscription(clock):
    """A stream receives nothing from a new subscription with the name of the deleted one."""
    resources = Resources(clock, run="1")
    topic, name = f"{PROJECT_NAME}/topics/same", f"{PROJECT_NAME}/subscriptions/same"
    resources.create_topic(Topic.pb()(name=topic))
    resources.create_subscription(Subscription.pb()(name=name, topic=topic))
    stream = Stream(resources, StreamingPullRequest.pb()(subscription=name, stream_ack_deadline_seconds=10))
    assert stream.take() == []
    resources.delete_subscription(DeleteSubscriptionRequest.pb()(subscription=name))
    resources.create_subscription(Subscription.pb()(name=name, topic=topic))
    with pytest.raises(NotFound):
        stream.take()


def test_exit__waiting_clients(clock):
    """The broker ends soon even if clients wait."""
    with Broker(clock=clock) as broker:
        subscription = make_subscription(broker.address, make_topic(broker.address))
        channel = channel_to(broker.address)
        request = PullRequest.serialize(PullRequest(subscription=subscription, max_messages=1))
        waiting = channel.unary_unary("/google.pubsub.v1.Subscriber/Pull").future(request)
        with pytest.raises(grpc.FutureTimeoutError):
            waiting.result(timeout=0.3)
        start = time.monotonic()
    assert time.monotonic() - start < MAX_WAIT_SECONDS / 2
    channel.close()


def test_pull__disconnected_client(address, client, topic, subscription):
    """Nothing is leased to a client that has disconnected."""
    request = PullRequest.serialize(PullRequest(subscription=subscription, max_messages=1))
    with channel_to(address) as channel:
        waiting = channel.unary_unary("/google.pubsub.v1.Subscriber/Pull").future(request)
        with pytest.raises(grpc.FutureTimeoutError):
            waiting.result(timeout=0.3)
        waiting.cancel()
        publish(address, topic, b"x")
    assert len(pull_now(client, subscription)) == 1


def streaming(
    client: pubsub_v1.SubscriberClient, requests: SimpleQueue[StreamingPullRequest | None], subscription: str, **fields: int
) -> Any:
    """Open a stream and return an iterator over its responses. Later requests are read from `requests` until None."""
    requests.put(StreamingPullRequest(subscription=subscription, stream_ack_deadline_seconds=10, **fields))
    return client.streaming_pull(iter(requests.get, None))
