"""A Pub/Sub broker in one process and in memory, for the ordinary client libraries.

`python -m local.pubsub` runs it until SIGINT or SIGTERM; `with Broker() as broker` runs it within another program. Clients that
are created while PUBSUB_EMULATOR_HOST has its address use it.

It supports topics, subscriptions, publish, pull, streaming pull, acknowledgements and leases. The response to all other
features is UNIMPLEMENTED: ordering, filters, dead-letter and retry policies, push, snapshots, schemas, updates.
"""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Self

import grpc
from google.pubsub_v1 import types

from local.pubsub.resources import Resources
from local.pubsub.services import Services

MAX_CALLS = 200
"""Most concurrent calls, each with a thread of its own. Further calls are refused with RESOURCE_EXHAUSTED."""


class Broker:
    """Context manager that runs a broker. Its topics and messages are lost at the end of the block."""

    def __init__(
        self, host: str = "127.0.0.1", port: int = 0, clock: Callable[[], float] = time.time, topics: Sequence[str] = ()
    ) -> None:
        """Create a broker that does not listen yet.

        Args:
            host: Address to listen on.
            port: Port to listen on; 0 selects a free one.
            clock: Returns seconds since 1970, for publish times and leases.
            topics: Full names of topics to create, each with a subscription of the same name.

        Raises:
            GoogleAPICallError: A topic's name is invalid or is given twice.
        """
        self._host = host
        self._port = port
        # Random (60 bits) and not a time: ids must differ from those of earlier runs even if the clock was set back.
        resources = Resources(clock, run=f"{secrets.randbits(60):019d}")
        for topic in topics:
            resources.create_topic(types.Topic.pb()(name=topic))
            subscription = topic.replace("/topics/", "/subscriptions/")
            resources.create_subscription(types.Subscription.pb()(name=subscription, topic=topic))
        self._threads = ThreadPoolExecutor(MAX_CALLS, thread_name_prefix="pubsub")
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), ("grpc.so_reuseport", 0)]
        self._server = grpc.server(self._threads, [Services(resources)], options=options, maximum_concurrent_rpcs=MAX_CALLS)

    @property
    def address(self) -> str:
        """host:port, the value for PUBSUB_EMULATOR_HOST. Port 0 is replaced by the selected one on entry to the block."""
        return f"{self._host}:{self._port}"

    def __enter__(self) -> Self:
        """Start to listen. Raise OSError with cause and remedy if that is not possible."""
        try:
            # Tried with a plain socket first, because gRPC prints many lines if the port is in use.
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((self._host, self._port))
            self._port = self._server.add_insecure_port(self.address)
        except (OSError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise OSError(
                f"can't listen on {self.address}: {reason}. What to do: choose another host or port; port 0 selects a free one"
            ) from None
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(grace=0.2).wait()
        self._threads.shutdown()
