"""Names and prefixes that all stores refuse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from storage.objects.base import StoreError
from storage.open import open_store

BAD_NAMES = [
    "",
    "/",
    "/a",
    "a/",
    "a//b",
    ".",
    "..",
    "../a",
    "a/../b",
    "a/.",
    ".tmp/a",
    "a\\..\\b",
    "a\nb",
    "a\0b",
    "a\udcff",
    "é" * 128,
]
BAD_NAMES.append("/".join(["a" * 100] * 11))


@pytest.mark.parametrize("uri", ["directory", "gs://bucket/prefix"])
@pytest.mark.parametrize("name", BAD_NAMES)
def test_check_name__invalid(uri: str, name: str, tmp_path: Path) -> None:
    """Every method refuses a name that is not valid in all stores."""
    # No emulator runs, so a test fails if a request is sent before the name is checked.
    store = open_store(str(tmp_path) if uri == "directory" else uri)
    calls: list[Callable[[], object]] = [
        lambda: store.read(name),
        lambda: store.open(name),
        lambda: store.write(name, b""),
        lambda: store.create(name, b""),
        lambda: store.replace(name, b"", 1),
        lambda: store.publish(name, "a"),
        lambda: store.publish("a", name),
    ]
    for call in calls:
        with pytest.raises(StoreError, match="can't name an object"):
            call()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("uri", ["directory", "gs://bucket/prefix"])
@pytest.mark.parametrize("prefix", ["/", "../", "a//", "a/../b", ".tmp/"])
def test_check_prefix__invalid(uri: str, prefix: str, tmp_path: Path) -> None:
    """A listing refuses a prefix with which no valid name can begin."""
    store = open_store(str(tmp_path) if uri == "directory" else uri)
    with pytest.raises(StoreError, match="can't name an object"):
        list(store.list(prefix))
