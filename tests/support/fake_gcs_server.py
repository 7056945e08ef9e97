"""fake-gcs-server, somebody else's Cloud Storage in Go: a second opinion on what ours in `gcs.py` accepts."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import requests

_MODULE = "github.com/fsouza/fake-gcs-server@v1.56.1"
_CACHE = Path.home() / ".cache" / "event-delivery" / "bin"
_BUILD_SECONDS = 400
_START_SECONDS = 20.0


@cache
def find_fake_gcs_server() -> tuple[str, str]:
    """The binary and an empty reason, or nothing and the reason. Built once, with Go, where it is not installed."""
    go = shutil.which("go")
    folders = [os.environ.get("PATH", ""), str(_CACHE)]
    if go:
        gopath = subprocess.run([go, "env", "GOPATH"], capture_output=True, text=True, check=False).stdout.strip()
        folders.append(str(Path(gopath) / "bin"))
    found = shutil.which("fake-gcs-server", path=os.pathsep.join(folders))
    if found:
        return found, ""
    if not go:
        return "", "neither fake-gcs-server nor Go is installed"
    try:
        subprocess.run(
            [go, "install", _MODULE],
            env={**os.environ, "GOBIN": str(_CACHE)},
            capture_output=True,
            text=True,
            check=True,
            timeout=_BUILD_SECONDS,
        )
    except subprocess.CalledProcessError as error:
        return "", f"go install {_MODULE} failed: {error.stderr[-300:]}"
    except subprocess.TimeoutExpired:
        return "", f"go install {_MODULE} took longer than {_BUILD_SECONDS} s"
    return str(_CACHE / "fake-gcs-server"), ""


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
