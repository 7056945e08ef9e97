"""Find or build the Go programs that tests talk to.

`python -m tests.support.go_tools` builds all of them in advance, so that no test has to wait for a compiler.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

from apache_beam import version

_CACHE = Path.home() / ".cache" / "event-delivery" / "bin"
_BUILD_SECONDS = 900

PRISM = f"github.com/apache/beam/sdks/v2/go/cmd/prism@v{version.__version__}"
FAKE_GCS_SERVER = "github.com/fsouza/fake-gcs-server@v1.56.1"
MODULES = {"prism_binary": PRISM, "third_party_server": FAKE_GCS_SERVER}
"""The Go module behind each fixture that needs one."""


@cache
def find_or_build(module: str) -> tuple[str, str]:
    """Return (path of the module's binary, ""), or ("", reason) if it can be neither found nor built.

    Safe in parallel: one process builds, the others wait for its lock and find the binary.
    """
    name, release = _name_and_release(module)
    go = shutil.which("go")
    # One folder per release: a newer Beam must not be tested on the Prism of an older one.
    folder = _CACHE / release
    if binary := _installed(name, folder, go):
        return binary, ""
    if not go:
        return "", f"neither {name} nor Go is installed"
    (folder / "build").mkdir(parents=True, exist_ok=True)
    with (folder / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / name).exists():
            if reason := _build(go, module, folder / "build"):
                return "", reason
            # Rename the complete file, since other processes look for it without the lock.
            (folder / "build" / name).rename(folder / name)
    return str(folder / name), ""


def _name_and_release(module: str) -> tuple[str, str]:
    path, _, release = module.partition("@")
    return path.rpartition("/")[2], release


def _installed(name: str, folder: Path, go: str | None) -> str | None:
    folders = [os.environ.get("PATH", ""), str(folder)]
    if go:
        gopath = subprocess.run([go, "env", "GOPATH"], capture_output=True, text=True, check=False).stdout.strip()
        folders.append(str(Path(gopath) / "bin"))
    return shutil.which(name, path=os.pathsep.join(folders))


def _build(go: str, module: str, folder: Path) -> str:
    """Build the module's binary into the folder. Returns "" or the reason of a failure."""
    command = [go, "install", module]
    environment = {**os.environ, "GOBIN": str(folder)}
    try:
        subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=_BUILD_SECONDS)
    except subprocess.CalledProcessError as error:
        return f"go install {module} failed: {error.stderr[-300:]}"
    except subprocess.TimeoutExpired:
        return f"go install {module} took longer than {_BUILD_SECONDS} s"
    return ""


def main() -> None:
    """Build missing programs. A program that can't be built is no error: its tests are skipped with the reason."""
    go = shutil.which("go")
    for module in MODULES.values():
        name, release = _name_and_release(module)
        if go and not _installed(name, _CACHE / release, go):
            print(f"Building {name} {release} with Go, once: one to five minutes", flush=True)
        binary, reason = find_or_build(module)
        if not binary:
            print(f"Tests on {name} will be skipped: {reason}")


if __name__ == "__main__":
    main()
