"""A TCP proxy that can cut a connection, so that real clients meet real outages over their real protocol."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import Self

from tests.support.pubsub import free_port


class Proxy:
    """A proxy in front of host:port, under an address of its own, while its block lasts."""

    def __init__(self, target: str) -> None:
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.lost = 0
        """Number of responses that were dropped so far."""
        self._target = target.split(":")
        self._guard = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listener: socket.socket | None = None
        self._to_lose: list[bytes] = []

    def __enter__(self) -> Self:
        self.restore()
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()

    def cut(self) -> None:
        """Close all connections and refuse new ones."""
        if self._listener:
            # Closing alone would not wake the thread that blocks in accept().
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        with self._guard:
            for connection in self._open:
                _end(connection)
            self._open.clear()

    def restore(self) -> None:
        """Accept connections again."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def lose_answer(self, method: bytes, count: int = 1) -> None:
        """Drop the response of this method on the next `count` connections that call it for the first time.

        The connection is closed after the call has taken effect and before its response arrives. A gRPC client sends a
        method's name in clear text once per connection, so only first calls are recognized.
        """
        with self._guard:
            self._to_lose += [method] * count

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
                service = socket.create_connection((self._target[0], int(self._target[1])))
            except OSError:
                return
            with self._guard:
                self._open |= {client, service}
            muted = threading.Event()
            for source, sink, is_request in ((client, service, True), (service, client, False)):
                threading.Thread(target=self._pass_on, args=(source, sink, is_request, muted), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, is_request: bool, muted: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                loses_response = is_request and self._loses(data)
                if loses_response:
                    muted.set()
                if is_request or not muted.is_set():
                    sink.sendall(data)
                if loses_response:
                    time.sleep(0.3)  # so that the call takes effect
                    break
        _end(source)
        _end(sink)

    def _loses(self, data: bytes) -> bool:
        with self._guard:
            method = next((lost for lost in self._to_lose if lost in data), None)
            if method:
                self._to_lose.remove(method)
                self.lost += 1
        return bool(method)


def _end(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
