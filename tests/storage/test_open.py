from __future__ import annotations

from pathlib import Path

import pytest

from storage.objects.base import StoreError
from storage.objects.gcs import CloudStorage
from storage.objects.local import Directory
from storage.open import open_store


@pytest.mark.parametrize("uri", ["gs://bucket/a/b", "gs://bucket/a/b/", "gs://bucket", "gs://bucket/"])
def test_open_store__cloud_storage(uri: str) -> None:
    """gs://bucket and gs://bucket/prefix are stores in Cloud Storage."""
    store = open_store(uri)
    assert isinstance(store, CloudStorage)
    assert store.uri == uri.rstrip("/")


def test_open_store__directory(tmp_path: Path) -> None:
    """A path without a scheme is a directory."""
    for uri in [str(tmp_path), f"{tmp_path}/", f"{tmp_path}/./"]:
        store = open_store(uri)
        assert isinstance(store, Directory)
        assert store.uri == str(tmp_path)


@pytest.mark.parametrize(
    "uri", ["", "s3://bucket/a", "file:///a", "gs:/bucket", "GS://bucket", "https://storage.googleapis.com/b"]
)
def test_open_store__unknown_scheme(uri: str) -> None:
    """The error contains both forms that are accepted."""
    with pytest.raises(StoreError, match="give the path of a directory, or gs://bucket"):
        open_store(uri)


@pytest.mark.parametrize("uri", ["gs://", "gs:///a", "gs://Bucket", "gs://-b-/a", "gs://b"])
def test_open_store__invalid_bucket(uri: str) -> None:
    """gs:// without a valid bucket name is refused."""
    with pytest.raises(StoreError, match="is no Cloud Storage bucket"):
        open_store(uri)


@pytest.mark.parametrize("uri", ["gs://bucket/../a", "gs://bucket//a", "gs://bucket/.tmp"])
def test_open_store__invalid_prefix(uri: str) -> None:
    """A prefix that is no valid object name is refused."""
    with pytest.raises(StoreError, match="can't name an object"):
        open_store(uri)
