from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from storage.objects.base import BucketsError
from storage.open import open_buckets

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
def test_names_that_not_every_store_can_hold_are_refused(uri: str, name: str, tmp_path: Path) -> None:
    # No server: they must be refused before anything is asked of one.
    buckets = open_buckets(str(tmp_path) if uri == "directory" else uri)
    refused: list[Callable[[], object]] = [
        lambda: buckets.read(name),
        lambda: buckets.open(name),
        lambda: buckets.write(name, b""),
        lambda: buckets.create(name, b""),
        lambda: buckets.replace(name, b"", 1),
        lambda: buckets.publish(name, "a"),
        lambda: buckets.publish("a", name),
    ]
    for act in refused:
        with pytest.raises(BucketsError, match="can't name an object"):
            act()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("uri", ["directory", "gs://bucket/prefix"])
@pytest.mark.parametrize("prefix", ["/", "../", "a//", "a/../b", ".tmp/"])
def test_prefixes_of_no_name_are_refused(uri: str, prefix: str, tmp_path: Path) -> None:
    buckets = open_buckets(str(tmp_path) if uri == "directory" else uri)
    with pytest.raises(BucketsError, match="can't name an object"):
        list(buckets.list(prefix))
