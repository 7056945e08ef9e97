"""A Go program is built once, however many processes need it, and never without Go."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support import go_tools

MODULE = "example.com/tools/cmd/gopher@v1.2.3"
GO = """#!/bin/sh
case "$1" in
    env) echo /nowhere;;
    install) echo "$2" >> "$LOG"; printf '#!/bin/sh\\n' > "$GOBIN/gopher"; chmod +x "$GOBIN/gopher";;
esac
"""
BROKEN_GO = """#!/bin/sh
echo "no such host" >&2
exit 1
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(go_tools, "_CACHE", tmp_path / "cache")
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    return tmp_path / "cache"


def put_go(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    (folder / "bin").mkdir()
    (folder / "bin" / "go").write_text(script)
    (folder / "bin" / "go").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:/usr/bin:/bin")


def test_find_or_build__many_at_once_build_once(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_go(tmp_path, monkeypatch, GO)
    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(go_tools.find_or_build.__wrapped__, [MODULE] * 8))
    assert set(results) == {(str(cache / "v1.2.3" / "gopher"), "")}
    assert (tmp_path / "log").read_text() == f"{MODULE}\n"


def test_find_or_build__other_release_is_not_taken(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_go(tmp_path, monkeypatch, GO)
    (cache / "v1.2.2").mkdir(parents=True)
    (cache / "v1.2.2" / "gopher").touch(mode=0o755)
    assert go_tools.find_or_build.__wrapped__(MODULE)[0] == str(cache / "v1.2.3" / "gopher")


def test_find_or_build__no_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert go_tools.find_or_build.__wrapped__(MODULE) == ("", "neither gopher nor Go is installed")


def test_find_or_build__failed_build_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_go(tmp_path, monkeypatch, BROKEN_GO)
    assert go_tools.find_or_build.__wrapped__(MODULE) == ("", f"go install {MODULE} failed: no such host\n")
