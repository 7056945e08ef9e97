"""fake-gcs-server, somebody else's Cloud Storage in Go: a second opinion on what ours in `gcs.py` accepts."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import requests

from tests.support.go_tools import find_or_build

_START_SECONDS = 20.0


def find_fake_gcs_server() -> tuple[str, str]:
    """The binary and an empty reason, or nothing and the reason."""
    return find_or_build("fake-gcs-server", "github.com/fsouza/fake-gcs-server@v1.56.1")


@contextmanager
def fake_gcs_server(binary: str, bucket: str) -> Iterator[str]:
    """Runs it in memory with one empty bucket, and gives its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    flags = ["-backend=memory", "-scheme=http", "-host=127.0.0.1", f"-port={port}", f"-external-url={url}", "-log-level=error"]
    process = subprocess.Popen([binary, *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait(process, url)
        requests.post(f"{url}/storage/v1/b", json={"name": bucket}, timeout=5).raise_for_status()
        yield url
    finally:
        process.terminate()
        process.wait()


def _wait(process: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            requests.get(f"{url}/_internal/healthcheck", timeout=1).raise_for_status()
        except requests.RequestException:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"fake-gcs-server did not answer at {url} within {_START_SECONDS} s")
