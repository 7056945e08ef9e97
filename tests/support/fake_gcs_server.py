"""fake-gcs-server, a third party's Cloud Storage in Go: a second opinion on the requests that our `gcs.py` accepts."""

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
    """Return (path of the binary, "") or ("", reason why there is none)."""
    return find_or_build("fake-gcs-server", "github.com/fsouza/fake-gcs-server@v1.56.1")


@contextmanager
def fake_gcs_server(binary: str, bucket: str) -> Iterator[str]:
    """Run the server in memory with one empty bucket and yield its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
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
