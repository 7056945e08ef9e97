"""Programs written in Go that tests speak to: found where they are installed, else built once."""

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
    """The binary and an empty reason, or nothing and the reason why it can't be had. Built once, with Go."""
    go = shutil.which("go")
    folders = [os.environ.get("PATH", ""), str(_CACHE)]
    if go:
        gopath = subprocess.run([go, "env", "GOPATH"], capture_output=True, text=True, check=False).stdout.strip()
        folders.append(str(Path(gopath) / "bin"))
    found = shutil.which(name, path=os.pathsep.join(folders))
    if found:
        return found, ""
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
