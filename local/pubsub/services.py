"""The gRPC services Publisher and Subscriber on top of the broker's resources, with locks, waiting and streams."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NoReturn

import grpc
from google.api_core.exceptions import GoogleAPICallError, InvalidArgument, MethodNotImplemented, NotFound
from google.pubsub_v1 import types

from local.pubsub.backlog import Flow
from local.pubsub.resources import MAX_DEADLINE, MAX_MESSAGES, MIN_DEADLINE, Proto, Resources, check_range

MAX_WAIT_SECONDS = 90.0
"""Longest wait of a pull for a message, unless the deadline of its client is earlier."""

IDLE_SECONDS = 60.0
"""Longest wait of a streaming pull before it checks for messages again."""


class Services(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Handler of the calls to both services. gRPC runs each call in a thread of its own."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        # Held while resources are used. Notified when messages may have become available, or a client has disconnected.
        self._changed = threading.Condition()
        self._methods = {
            "Publisher/CreateTopic": self._at_once(types.Topic, resources.create_topic),
            "Publisher/GetTopic": self._at_once(types.GetTopicRequest, resources.get_topic),
            "Publisher/ListTopics": self._at_once(types.ListTopicsRequest, resources.list_topics),
            "Publisher/ListTopicSubscriptions": self._at_once(
                types.ListTopicSubscriptionsRequest, resources.list_topic_subscriptions
            ),
            "Publisher/DeleteTopic": self._at_once(types.DeleteTopicRequest, resources.delete_topic),
            "Publisher/Publish": self._at_once(types.PublishRequest, resources.publish),
            "Subscriber/CreateSubscription": self._at_once(types.Subscription, resources.create_subscription),
            "Subscriber/GetSubscription": self._at_once(types.GetSubscriptionRequest, resources.get_subscription),
            "Subscriber/ListSubscriptions": self._at_once(types.ListSubscriptionsRequest, resources.list_subscriptions),
            "Subscriber/DeleteSubscription": self._at_once(types.DeleteSubscriptionRequest, resources.delete_subscription),
            "Subscriber/Acknowledge": self._at_once(types.AcknowledgeRequest, resources.acknowledge),
            "Subscriber/ModifyAckDeadline": self._at_once(types.ModifyAckDeadlineRequest, resources.modify_ack_deadline),
            "Subscriber/Pull": unary(types.PullRequest, self._pull),
            "Subscriber/StreamingPull": grpc.stream_stream_rpc_method_handler(
                self._streaming_pull, types.StreamingPullRequest.pb().FromString, serialize
            ),
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        """Return the handler of a call, as grpc.GenericRpcHandler requires."""
        method = handler_call_details.method
        return self._methods.get(method.removeprefix("/google.pubsub.v1.")) or refusal(method)

    def _at_once(self, request_type: Proto, handle: Callable[[Proto], Proto]) -> grpc.RpcMethodHandler:
        """Return the gRPC handler for a method of the resources, which is called with the lock and does not wait."""

        def call(request: Proto, _: grpc.ServicerContext) -> Proto:
            with self._changed:
                response = handle(request)
                self._changed.notify_all()
                return response

        return unary(request_type, call)

    def _pull(self, request: Proto, context: grpc.ServicerContext) -> Proto:
        """Wait for messages. If none comes, respond without one shortly before the client's deadline, to avoid an error."""
        check_range("max_messages", request.max_messages, 1, 2**31)
        remaining = context.time_remaining()
        wait = MAX_WAIT_SECONDS if remaining is None else min(MAX_WAIT_SECONDS, 0.9 * remaining)
        until = time.monotonic() + (0 if request.return_immediately else wait)
        context.add_callback(self._wake)
        taken: list[tuple[str, bytes]] = []
        with self._changed:
            seconds = self._resources.subscription(request.subscription).ack_deadline_seconds
            # Nothing is leased to a client that has disconnected, because it could not acknowledge it.
            while context.is_active():
                taken = self._resources.take(request.subscription, seconds, request.max_messages, Flow())
                remaining_seconds = until - time.monotonic()
                if taken or remaining_seconds <= 0:
                    break
                self._wait(request.subscription, remaining_seconds)
        return fill(types.PullResponse.pb()(), taken)

    def _streaming_pull(self, requests: Iterator[Proto], context: grpc.ServicerContext) -> Iterator[Proto]:
        """Yield messages as the client's flow control permits, until the client ends the stream."""
        try:
            first = next(requests, None)
            if first is None:
                return
            with self._changed:
                stream = Stream(self._resources, first)
            threading.Thread(target=self._read, args=(stream, requests), name="pubsub-stream", daemon=True).start()
            while True:
                taken: list[tuple[str, bytes]] = []
                with self._changed:
                    while context.is_active() and not stream.ended:
                        if taken := stream.take():
                            break
                        self._wait(stream.name, IDLE_SECONDS)
                if stream.error:
                    raise stream.error
                if not taken:
                    return
                yield fill(types.StreamingPullResponse.pb()(), taken)
        except GoogleAPICallError as error:
            abort(context, error)

    def _read(self, stream: Stream, requests: Iterator[Proto]) -> None:
        try:
            for request in requests:
                with self._changed:
                    stream.apply(request)
                    self._changed.notify_all()
        except GoogleAPICallError as error:
            stream.error = error
        except grpc.RpcError:
            # The client has disconnected, which is a usual end of a stream.
            pass
        stream.ended = True
        self._wake()

    def _wait(self, subscription: str, at_most: float) -> None:
        """Wait for a notification, the expiry of the subscription's next lease, or `at_most` seconds."""
        seconds = self._resources.seconds_to_next_expiry(subscription)
        self._changed.wait(at_most if seconds is None else min(at_most, seconds))

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()


class Stream:
    """State of one streaming pull: its ack deadline, its flow control, and how it ended."""

    def __init__(self, resources: Resources, first: Proto) -> None:
        """Open a stream.

        Args:
            resources: Resources of the broker.
            first: First request of the stream.

        Raises:
            NotFound: The subscription does not exist.
            InvalidArgument: The ack deadline or an ack id is invalid.
        """
        self._resources = resources
        self.name: str = first.subscription
        self.ended = False
        self.error: GoogleAPICallError | None = None
        self._backlog = resources.backlog(self.name)
        check_range("stream_ack_deadline_seconds", first.stream_ack_deadline_seconds, MIN_DEADLINE, MAX_DEADLINE)
        self._deadline = MIN_DEADLINE
        self._flow = Flow(first.max_outstanding_messages, first.max_outstanding_bytes)
        first.subscription = ""
        self.apply(first)

    def take(self) -> list[tuple[str, bytes]]:
        """Lease messages as flow control permits. Raise NotFound if the subscription was deleted, even if it was recreated."""
        if self._resources.backlog(self.name) is not self._backlog:
            raise NotFound(f"subscription {self.name} was deleted and created again")
        return self._resources.take(self.name, self._deadline, MAX_MESSAGES, self._flow)

    def apply(self, request: Proto) -> None:
        """Apply a request on the open stream: a new ack deadline, acknowledgements and extensions of leases.

        Raises:
            NotFound: The subscription does not exist.
            InvalidArgument: The request contradicts itself, or a deadline or an ack id is invalid.
        """
        if request.subscription or len(request.modify_deadline_ack_ids) != len(request.modify_deadline_seconds):
            raise InvalidArgument("a request on an open stream must have no subscription, and as many deadlines as ack ids")
        if request.stream_ack_deadline_seconds:
            check_range("stream_ack_deadline_seconds", request.stream_ack_deadline_seconds, MIN_DEADLINE, MAX_DEADLINE)
            self._deadline = request.stream_ack_deadline_seconds
        if request.ack_ids:
            self._resources.ack(self.name, request.ack_ids)
        for ack_id, seconds in zip(request.modify_deadline_ack_ids, request.modify_deadline_seconds, strict=True):
            self._resources.set_expiry(self.name, [ack_id], seconds)


def unary(request_type: Proto, call: Callable[[Proto, grpc.ServicerContext], Proto]) -> grpc.RpcMethodHandler:
    """Return a handler of one request and one response. Errors of google.api_core become the status of the response."""

    def handle(request: Proto, context: grpc.ServicerContext) -> Proto:
        try:
            return call(request, context)
        except GoogleAPICallError as error:
            abort(context, error)

    return grpc.unary_unary_rpc_method_handler(handle, request_type.pb().FromString, serialize)


def refusal(method: str) -> grpc.RpcMethodHandler:
    """Return a handler that responds UNIMPLEMENTED to any request of an unsupported method."""

    def refuse(_: bytes, context: grpc.ServicerContext) -> NoReturn:
        abort(context, MethodNotImplemented(f"the local broker does not support {method}; use Cloud Pub/Sub, or its emulator"))

    return grpc.unary_unary_rpc_method_handler(refuse)


def abort(context: grpc.ServicerContext, error: GoogleAPICallError) -> NoReturn:
    """End the call with the status and the message of `error`."""
    context.abort(error.grpc_status_code, error.message)
    raise AssertionError("abort always raises")


def fill(response: Proto, taken: Iterable[tuple[str, bytes]]) -> Proto:
    """Add messages and their ack ids to the response to a pull, and return it."""
    for ack_id, message in taken:
        response.received_messages.add(ack_id=ack_id).message.MergeFromString(message)
    return response


def serialize(message: Proto) -> bytes:
    return bytes(message.SerializeToString())
