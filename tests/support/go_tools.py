"""Find or build the Go programs that tests talk to."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

_CACHE = Path.home() / ".cache" / "event-delivery" / "bin"
_BUILD_SECONDS = 400


@cache
def find_or_build(name: str, module: str) -> tuple[str, str]:
    """Find a Go program on PATH, in our cache or in GOPATH, or build it once with `go install`.

    Args:
        name: name of the binary
        module: Go module and version, as `go install` takes it

    Returns:
        (path of the binary, "") or, if there is neither the binary nor a way to build it, ("", reason)
    """
    go = shutil.which("go")
    folders = [os.environ.get("PATH", ""), str(_CACHE)]
    if go:
        gopath = subprocess.run([go, "env", "GOPATH"], capture_output=True, text=True, check=False).stdout.strip()
        folders.append(str(Path(gopath) / "bin"))
    binary = shutil.which(name, path=os.pathsep.join(folders))
    if binary:
        return binary, ""
    if not go:
        return "", f"neither {name} nor Go is installed"
    try:
        subprocess.run(
            [go, "install", module],
            env={**os.environ, "GOBIN": str(_CACHE)},
            capture_output=True,
            text=True,
            check=True,
            timeout=_BUILD_SECONDS,
        )
    except subprocess.CalledProcessError as error:
        return "", f"go install {module} failed: {error.stderr[-300:]}"
    except subprocess.TimeoutExpired:
        return "", f"go install {module} took longer than {_BUILD_SECONDS} s"
    return str(_CACHE / name), ""
