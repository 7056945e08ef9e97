"""What the store in Cloud Storage makes of refusals, lost answers, damaged bytes and outages."""

from __future__ import annotations

import io
import os
import pickle
import time
from collections.abc import Callable, Iterator
from typing import Any

import google.auth
import pytest
from google.auth.exceptions import DefaultCredentialsError

from storage.objects.base import AlreadyExists, Changed, NotFound, StoreError
from storage.objects.gcs import RETRY, CloudStorage
from tests.support.gcs import GcsServer

PATIENCE = 0.3
UPLOAD = "POST /upload"
LARGE = 9 * 1024 * 1024
"""Above 8 MiB the client uploads in several requests."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[GcsServer]:
    with GcsServer("bucket") as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        yield server


@pytest.fixture
def store(server: GcsServer) -> CloudStorage:
    return CloudStorage("gs://bucket/root", retry=RETRY.with_delay(initial=0.01, maximum=0.05).with_timeout(20))


@pytest.fixture
def impatient(server: GcsServer) -> CloudStorage:
    return CloudStorage("gs://bucket/root", retry=RETRY.with_delay(initial=0.01, maximum=0.05).with_timeout(PATIENCE))


def uploads(server: GcsServer) -> int:
    return sum(line.startswith(UPLOAD) for line in server.requests)


def test_objects_lie_below_the_prefix(server: GcsServer, store: CloudStorage) -> None:
    server.put("bucket", "other", b"x")
    server.put("bucket", "roots", b"x")
    store.write("a/b", b"x")
    assert server.list("bucket", "root/") == ["root/a/b"]
    assert list(store.list("")) == ["a/b"]


@pytest.mark.parametrize("status", [0, 408, 429, 500, 502, 503, 504])
def test_a_passing_failure_is_not_noticed(server: GcsServer, store: CloudStorage, status: int) -> None:
    for match in [UPLOAD, "alt=media", "GET /storage", "rewriteTo"]:
        server.fail_next(2, status, match)
    store.write("a", b"x")
    store.publish("a", "b")
    assert store.read("b")[0] == b"x"
    assert list(store.list("")) == ["a", "b"]
    with store.open("b") as stream:
        server.fail_next(2, status, "alt=media")
        assert stream.read() == b"x"


def test_an_outage_ends_in_an_error_within_the_deadline(server: GcsServer, impatient: CloudStorage) -> None:
    impatient.write("a", b"x")
    server.fail_next(10_000, 503)
    acts: list[Callable[[], object]] = [
        lambda: impatient.write("a", b"x"),
        lambda: impatient.create("a", b"x"),
        lambda: impatient.read("a"),
        lambda: impatient.publish("a", "b"),
        lambda: list(impatient.list("")),
    ]
    for act in acts:
        began = time.monotonic()
        with pytest.raises(
            StoreError, match=r"gs://bucket/root.*gave up after retries.*503.*What to do: check the network"
        ) as error:
            act()
        assert not isinstance(error.value, NotFound | Changed | AlreadyExists)
        assert time.monotonic() - began < PATIENCE + 2


def test_an_outage_in_the_midst_of_a_stream_is_a_store_error(server: GcsServer, impatient: CloudStorage) -> None:
    impatient.write("a", b"x")
    with impatient.open("a") as stream:
        server.fail_next(10_000, 503)
        with pytest.raises(StoreError, match="can't read gs://bucket/root/a"):
            stream.read()


@pytest.mark.parametrize("status", [0, 503])
class TestLostAnswers:
    def test_a_create_whose_answer_was_lost_has_succeeded_once(
        self, server: GcsServer, store: CloudStorage, status: int
    ) -> None:
        server.lose_answer(1, UPLOAD, status)
        stored = store.create("a", b"x")
        assert uploads(server) == 2
        assert store.read("a") == (b"x", stored)

    def test_a_replace_whose_answer_was_lost_has_succeeded_once(
        self, server: GcsServer, store: CloudStorage, status: int
    ) -> None:
        first = store.write("a", b"1")
        server.lose_answer(1, UPLOAD, status)
        second = store.replace("a", b"2", first.generation)
        assert uploads(server) == 3
        assert store.read("a") == (b"2", second)

    def test_a_replace_is_refused_when_the_same_bytes_came_from_somebody_else(
        self, server: GcsServer, store: CloudStorage, status: int
    ) -> None:
        # Its first try comes to nothing, the other writer comes between, and the second try finds the bytes it would write.
        first = store.write("count", b"5")
        server.fail_next(1, status, UPLOAD)
        server.put("bucket", "root/count", b"6")
        with pytest.raises(Changed):
            store.replace("count", b"6", first.generation)
        assert uploads(server) == 3

    @pytest.mark.parametrize("size", [10, LARGE])
    def test_a_write_whose_answer_was_lost_is_written_again(
        self, server: GcsServer, store: CloudStorage, status: int, size: int
    ) -> None:
        data = os.urandom(size)
        server.lose_answer(1, UPLOAD if size < LARGE else "PUT /upload", status)
        stored = store.write("a", io.BytesIO(data))
        assert store.read("a") == (data, stored)

    def test_a_publish_whose_answer_was_lost_has_succeeded_once(
        self, server: GcsServer, store: CloudStorage, status: int
    ) -> None:
        store.write("a", b"x")
        server.lose_answer(1, "rewriteTo", status)
        store.publish("a", "b")
        written = store.read("b")[1].generation
        store.publish("a", "b")
        assert store.read("b")[1].generation == written


@pytest.mark.parametrize("size", [10, LARGE])
def test_an_upload_damaged_on_the_way_is_an_error_and_no_object(server: GcsServer, store: CloudStorage, size: int) -> None:
    server.damage_uploads()
    with pytest.raises(StoreError, match=r"can't write gs://bucket/root/a.*crc32c"):
        store.write("a", os.urandom(size))
    assert server.list("bucket") == []


def test_a_download_damaged_on_the_way_is_an_error(server: GcsServer, store: CloudStorage) -> None:
    store.write("a", b"x")
    server.damage_downloads()
    with pytest.raises(StoreError, match="the bytes were damaged in transit"):
        store.read("a")
    assert store.read("a")[0] == b"x"


def test_a_large_object_is_copied_in_several_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    with GcsServer("bucket", rewrite=1024 * 1024) as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        store = CloudStorage("gs://bucket")
        data = os.urandom(3_000_000)
        store.write("a", data)
        store.publish("a", "b")
        assert store.read("b")[0] == data
        assert sum("rewriteTo" in line for line in server.requests) == 3


def test_publish_is_done_where_a_lifecycle_rule_has_deleted_the_source(server: GcsServer, store: CloudStorage) -> None:
    store.write("a", b"x")
    store.publish("a", "b")
    server.delete("bucket", "root/a")
    store.publish("a", "b")
    assert store.read("b")[0] == b"x"


def test_a_stream_never_mixes_two_generations(store: CloudStorage) -> None:
    store.write("a", b"1" * LARGE)
    with store.open("a") as stream:
        assert stream.read(1) == b"1"
        store.write("a", b"2" * LARGE)
        with pytest.raises(NotFound, match="root/a"):
            stream.read()


def test_placeholders_of_folders_are_not_listed(server: GcsServer, store: CloudStorage) -> None:
    for name in ["root/", "root/a/", "root/.tmp/writable", "root/a/b"]:
        server.put("bucket", name, b"")
    assert list(store.list("")) == ["a/b"]


def test_a_missing_role_is_named(server: GcsServer, store: CloudStorage) -> None:
    server.fail_next(1, 403, UPLOAD)
    with pytest.raises(StoreError, match=r"403.*roles/storage\.objectUser on gs://bucket"):
        store.check_writable()


@pytest.mark.parametrize("match", [UPLOAD, "alt=media", "startOffset"])
def test_the_check_needs_the_rights_to_write_read_and_list(server: GcsServer, store: CloudStorage, match: str) -> None:
    server.fail_next(1, 403, match)
    with pytest.raises(StoreError, match="403"):
        store.check_writable()


@pytest.mark.usefixtures("server")
def test_a_bucket_that_is_not_there_is_an_error_that_says_so() -> None:
    with pytest.raises(StoreError, match=r"gs://no-bucket.*The specified bucket does not exist"):
        CloudStorage("gs://no-bucket").check_writable()


def test_missing_credentials_are_an_error_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def default(**_: Any) -> None:
        raise DefaultCredentialsError("none found")

    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setattr(google.auth, "default", default)
    with pytest.raises(StoreError, match="gcloud auth application-default login"):
        CloudStorage("gs://bucket").read("a")


def test_a_pickle_holds_no_client(store: CloudStorage) -> None:
    store.write("a", b"x")
    given = CloudStorage("gs://bucket/root", client=store._client)
    copy = pickle.loads(pickle.dumps(given))
    assert copy._client is None
    assert copy.read("a")[0] == b"x"
    assert given._client is store._client
