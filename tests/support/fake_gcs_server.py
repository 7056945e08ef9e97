"""fake-gcs-server, a third party's Cloud Storage in Go: a second opinion on the requests that our `gcs.py` accepts."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import requests

from tests.support.clock import PATIENCE
from tests.support.go_tools import FAKE_GCS_SERVER, find_or_build
from tests.support.pubsub import free_port


@pytest.fixture(scope="session")
def fake_gcs_server_binary() -> str:
    """Return the path of fake-gcs-server. Skips the test if it can be neither found nor built."""
    binary, reason = find_or_build(FAKE_GCS_SERVER)
    if not binary:
        pytest.skip(reason)
    return binary


@contextmanager
def fake_gcs_server(binary: str, bucket: str) -> Iterator[str]:
    """Run the server in memory with one empty bucket and yield its URL."""
    port = free_port()
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
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        try:
            requests.get(f"{url}/_internal/healthcheck", timeout=1).raise_for_status()
        except requests.RequestException:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"fake-gcs-server did not answer at {url} within {PATIENCE} s")
