"""A way to a service that can be cut: a TCP proxy, so that real clients speak their real protocol and meet real outages."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import Self

from tests.support.pubsub import free_port


class Proxy:
    """Stands in front of host:port while its block lasts, under an address of its own."""

    def __init__(self, target: str) -> None:
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.lost = 0
        """How many answers were lost so far."""
        self._target = target.split(":")
        self._guard = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listener: socket.socket | None = None
        self._to_lose: list[bytes] = []

    def __enter__(self) -> Self:
        self.mend()
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()

    def cut(self) -> None:
        """Ends all connections, and refuses new ones."""
        if self._listener:
            # Closing alone would not wake the thread that waits on it.
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        with self._guard:
            for one in self._open:
                _end(one)
            self._open.clear()

    def mend(self) -> None:
        """Takes connections again."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def lose_answer(self, method: bytes, count: int = 1) -> None:
        """The next `count` connections on which this method of a service is called for the first time are ended when the call
        has taken effect, and before its answer has come. (A client names a method in clear text once a connection.)"""
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
            deaf = threading.Event()
            for source, sink, asks in ((client, service, True), (service, client, False)):
                threading.Thread(target=self._pass_on, args=(source, sink, asks, deaf), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, asks: bool, deaf: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                loses = asks and self._loses(data)
                if loses:
                    deaf.set()
                if asks or not deaf.is_set():
                    sink.sendall(data)
                if loses:
                    time.sleep(0.3)  # for it to take effect
                    break
        _end(source)
        _end(sink)

    def _loses(self, data: bytes) -> bool:
        with self._guard:
            found = next((method for method in self._to_lose if method in data), None)
            if found:
                self._to_lose.remove(found)
                self.lost += 1
        return bool(found)


def _end(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()
