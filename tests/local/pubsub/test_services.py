"""Streams, and clients that wait or go, on a broker whose clock the test moves."""

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
from local.pubsub.services import Stream
from tests.support.pubsub import (
    PROJECT,
    channel_to,
    make_subscription,
    make_topic,
    publish,
    pull_now,
)

PROJECT_NAME = f"projects/{PROJECT}"


def test_a_stream_acks_extends_and_holds_no_more_than_it_asked_for(address, clock, client, topic, subscription):
    publish(address, topic, b"1", b"2", b"3", b"4")
    requests: SimpleQueue[StreamingPullRequest | None] = SimpleQueue()
    responses = streaming(client, requests, subscription, max_outstanding_messages=3)
    first = next(responses).received_messages
    assert [received.message.data for received in first] == [b"1", b"2", b"3"]
    one, two, _ = (received.ack_id for received in first)
    requests.put(StreamingPullRequest(ack_ids=[one], modify_deadline_ack_ids=[two], modify_deadline_seconds=[600]))
    assert [received.message.data for received in next(responses).received_messages] == [b"4"]
    requests.put(None)
    assert list(responses) == [], "a stream ends when its client has no more to say"
    clock.advance(20)
    assert [received.message.data for received in pull_now(client, subscription)] == [b"3", b"4"]


def test_a_stream_ends_with_an_error_when_it_misbehaves_or_its_subscription_goes(client, topic, subscription):
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


def test_a_stream_does_not_pass_to_a_new_subscription_of_the_same_name(clock):
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


def test_the_broker_ends_soon_although_clients_wait(clock):
    with Broker(clock=clock) as broker:
        subscription = make_subscription(broker.address, make_topic(broker.address))
        channel = channel_to(broker.address)
        request = PullRequest.serialize(PullRequest(subscription=subscription, max_messages=1))
        waiting = channel.unary_unary("/google.pubsub.v1.Subscriber/Pull").future(request)
        with pytest.raises(grpc.FutureTimeoutError):
            waiting.result(timeout=0.3)
        start = time.monotonic()
    assert time.monotonic() - start < 5
    channel.close()


def test_a_client_that_has_gone_is_given_nothing(address, client, topic, subscription):
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
    """Opens a stream: an iterator over its responses. What is put into `requests` is sent later; None ends the sending."""
    requests.put(StreamingPullRequest(subscription=subscription, stream_ack_deadline_seconds=10, **fields))
    return client.streaming_pull(iter(requests.get, None))
