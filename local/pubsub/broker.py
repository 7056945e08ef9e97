"""Pub/Sub in one process and in memory, spoken to by the ordinary client libraries.

`python -m local.pubsub` serves until SIGINT or SIGTERM; `with Broker() as broker` serves inside another program. Clients that
are made while PUBSUB_EMULATOR_HOST is set to its address speak to it. It has topics, subscriptions, publish, pull, streaming
pull, ack and leases. What else a request may ask for (ordering, filters, dead-letter and retry policies, push, snapshots,
schemas, updates) is answered with UNIMPLEMENTED.
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

CALLS_AT_ONCE = 200
"""Each takes a thread while it lasts. A call beyond is refused with RESOURCE_EXHAUSTED."""


class Broker:
    """A broker that serves while its block lasts, and forgets everything at its end.

    host, port: where to listen; port 0 takes any that is free. clock: seconds since 1970, for publish times and leases.
    topics: are there from the start, each with a subscription of the same name. Raises GoogleAPICallError for a bad name.
    """

    def __init__(
        self, host: str = "127.0.0.1", port: int = 0, clock: Callable[[], float] = time.time, topics: Sequence[str] = ()
    ) -> None:
        self._host = host
        self._port = port
        # 60 random bits, since ids must differ from an earlier run's even where a clock was set back.
        resources = Resources(clock, run=f"{secrets.randbits(60):019d}")
        for topic in topics:
            resources.create_topic(types.Topic.pb()(name=topic))
            subscription = topic.replace("/topics/", "/subscriptions/")
            resources.create_subscription(types.Subscription.pb()(name=subscription, topic=topic))
        self._threads = ThreadPoolExecutor(CALLS_AT_ONCE, thread_name_prefix="pubsub")
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), ("grpc.so_reuseport", 0)]
        self._server = grpc.server(self._threads, [Services(resources)], options=options, maximum_concurrent_rpcs=CALLS_AT_ONCE)

    @property
    def address(self) -> str:
        """host:port, as PUBSUB_EMULATOR_HOST takes it. The port is known once the block has begun."""
        return f"{self._host}:{self._port}"

    def __enter__(self) -> Self:
        """Raises OSError, saying why and what to do, when it can't listen there."""
        try:
            # Asked first, because gRPC writes many lines of its own about a port that is in use.
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((self._host, self._port))
            self._port = self._server.add_insecure_port(self.address)
        except (OSError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise OSError(
                f"can't listen on {self.address}: {reason}. Choose another host or port; port 0 takes any free one"
            ) from None
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(grace=0.2).wait()
        self._threads.shutdown()
