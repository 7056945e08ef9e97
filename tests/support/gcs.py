"""A small, strict Cloud Storage on 127.0.0.1 with fault injection."""

from __future__ import annotations

import re
import threading
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

from tests.support.faults import Faults
from tests.support.gcs_api import Api
from tests.support.gcs_messages import Answer, Object, Refused


class GcsServer(Faults):
    """`with GcsServer("my-bucket") as server:` serves at `server.url`, for STORAGE_EMULATOR_HOST.

    Args:
        buckets: names of the buckets
        page: objects in one page of a listing
        rewrite: bytes that one request of a rewrite copies
    """

    def __init__(self, *buckets: str, page: int = 3, rewrite: int = 8 * 1024 * 1024) -> None:
        super().__init__()
        self.requests: list[str] = []
        """Every request for objects so far: `METHOD /path?query`, unquoted."""
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"gcs": self}))
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._api = Api(self.url, buckets, page, rewrite)

    def __enter__(self) -> GcsServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def read(self, bucket: str, name: str) -> bytes:
        """Return the bytes of an object. Raises KeyError if there is no such object."""
        with self._lock:
            return self._api.objects(bucket)[name].data

    def list(self, bucket: str, prefix: str = "") -> list[str]:
        """Return the names of a bucket's objects in the order of their code points."""
        with self._lock:
            return sorted(name for name in self._api.objects(bucket) if name.startswith(prefix))

    def generations(self, bucket: str) -> dict[str, int]:
        """Return the generation of every object. It changes on every write, even with the same bytes."""
        with self._lock:
            return {name: stored.generation for name, stored in self._api.objects(bucket).items()}

    def put(self, bucket: str, name: str, data: bytes) -> Object:
        """Write an object as another client would."""
        with self._lock:
            return self._api.put(bucket, name, data)

    def delete(self, bucket: str, name: str) -> None:
        """Delete an object as a lifecycle rule would."""
        with self._lock:
            del self._api.objects(bucket)[name]

    def damage_uploads(self, count: int = 1) -> None:
        """Flip one bit in each of the next `count` uploads."""
        self._api.damaged_uploads = count

    def damage_downloads(self, count: int = 1) -> None:
        """Flip one bit in each of the next `count` downloads."""
        self._api.damaged_downloads = count

    def answer(self, method: str, target: str, headers: Message, body: bytes) -> Answer | None:
        """Return the response to a request, or None if the connection is to be dropped."""
        line = unquote(f"{method} {target}")
        # The client requests the bucket itself in the background, at times of its own: no test could rely on those.
        counted = not re.match(r"GET /storage/v1/b/[^/]+(\?|$)", line)
        if counted:
            self.act_before(line)
        with self._lock:
            if not counted:
                return self._api.answer(method, target, headers, body)
            self.requests.append(line)
            fault = self.fault_of(line)
            if fault is None:
                return self._api.answer(method, target, headers, body)
            if fault.takes_effect:
                self._api.answer(method, target, headers, body)
            return Refused(fault.status, "a fault injected by a test").answer if fault.status else None


class _Handler(BaseHTTPRequestHandler):
    gcs: GcsServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        answer = self.gcs.answer(self.command, self.path, self.headers, body)
        if answer is None:
            self.close_connection = True
            return
        self.send_response(answer.status)
        for key, value in answer.headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = _serve  # noqa: N815 - The names are those of http.server.

    def log_message(self, *_: object) -> None:
        """Log nothing: tests have no use for a log of requests."""
