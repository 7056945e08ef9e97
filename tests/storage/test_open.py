from __future__ import annotations

from pathlib import Path

import pytest

from storage.objects.base import StoreError
from storage.objects.gcs import CloudStorage
from storage.objects.local import Directory
from storage.open import open_store


@pytest.mark.parametrize("given", ["gs://bucket/a/b", "gs://bucket/a/b/", "gs://bucket", "gs://bucket/"])
def test_gs_names_a_bucket_and_perhaps_a_prefix(given: str) -> None:
    store = open_store(given)
    assert isinstance(store, CloudStorage)
    assert store.uri == given.rstrip("/")


def test_anything_without_a_scheme_is_a_directory(tmp_path: Path) -> None:
    for given in [str(tmp_path), f"{tmp_path}/", f"{tmp_path}/./"]:
        store = open_store(given)
        assert isinstance(store, Directory)
        assert store.uri == str(tmp_path)


@pytest.mark.parametrize(
    "uri", ["", "s3://bucket/a", "file:///a", "gs:/bucket", "GS://bucket", "https://storage.googleapis.com/b"]
)
def test_other_schemes_are_refused_with_what_to_give(uri: str) -> None:
    with pytest.raises(StoreError, match="give the path of a directory, or gs://bucket"):
        open_store(uri)


@pytest.mark.parametrize("uri", ["gs://", "gs:///a", "gs://Bucket", "gs://-b-/a", "gs://b"])
def test_gs_without_a_valid_bucket_is_refused(uri: str) -> None:
    with pytest.raises(StoreError, match="is no Cloud Storage bucket"):
        open_store(uri)


@pytest.mark.parametrize("uri", ["gs://bucket/../a", "gs://bucket//a", "gs://bucket/.tmp"])
def test_gs_with_a_prefix_of_no_name_is_refused(uri: str) -> None:
    with pytest.raises(StoreError, match="can't name an object"):
        open_store(uri)
