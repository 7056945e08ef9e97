"""CloudStorage with refusals, lost responses, damaged bytes and outages."""

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
"""Seconds after which `impatient` gives up."""

UPLOAD = "POST /upload"
LARGE = 9 * 1024 * 1024
"""Bytes. The client uploads more than 8 MiB in several requests."""


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


def test_list__prefix_of_uri(server: GcsServer, store: CloudStorage) -> None:
    """Names are relative to the prefix of the URI."""
    server.put("bucket", "other", b"x")
    server.put("bucket", "roots", b"x")
    store.write("a/b", b"x")
    assert server.list("bucket", "root/") == ["root/a/b"]
    assert list(store.list("")) == ["a/b"]


@pytest.mark.parametrize("status", [0, 408, 429, 500, 502, 503, 504])
def test_retry__transient_error(server: GcsServer, store: CloudStorage, status: int) -> None:
    """Two transient errors of each kind of request are retried."""
    for match in [UPLOAD, "alt=media", "GET /storage", "rewriteTo"]:
        server.fail_next(2, status, match)
    store.write("a", b"x")
    store.publish("a", "b")
    assert store.read("b")[0] == b"x"
    assert list(store.list("")) == ["a", "b"]
    with store.open("b") as stream:
        server.fail_next(2, status, "alt=media")
        assert stream.read() == b"x"


def test_retry__outage(server: GcsServer, impatient: CloudStorage) -> None:
    """Each method raises a StoreError with cause and remedy once its retries have timed out."""
    impatient.write("a", b"x")
    server.fail_next(10_000, 503)
    calls: list[Callable[[], object]] = [
        lambda: impatient.write("a", b"x"),
        lambda: impatient.create("a", b"x"),
        lambda: impatient.read("a"),
        lambda: impatient.publish("a", "b"),
        lambda: list(impatient.list("")),
    ]
    for call in calls:
        began = time.monotonic()
        with pytest.raises(
            StoreError, match=r"gs://bucket/root.*gave up after retries.*503.*What to do: check the network"
        ) as error:
            call()
        assert not isinstance(error.value, NotFound | Changed | AlreadyExists)
        assert time.monotonic() - began < 60, "not within the deadline, but when all failures were used up"


def test_open__outage_during_read(server: GcsServer, impatient: CloudStorage) -> None:
    """An outage while a stream is read raises StoreError."""
    impatient.write("a", b"x")
    with impatient.open("a") as stream:
        server.fail_next(10_000, 503)
        with pytest.raises(StoreError, match="can't read gs://bucket/root/a"):
            stream.read()


@pytest.mark.parametrize("status", [0, 503])
class TestLostResponses:
    def test_create__lost_response(self, server: GcsServer, store: CloudStorage, status: int) -> None:
        """The create is repeated once and succeeds."""
        server.lose_answer(1, UPLOAD, status)
        stored = store.create("a", b"x")
        assert uploads(server) == 2
        assert store.read("a") == (b"x", stored)

    def test_replace__lost_response(self, server: GcsServer, store: CloudStorage, status: int) -> None:
        """The replace is repeated once and succeeds."""
        first = store.write("a", b"1")
        server.lose_answer(1, UPLOAD, status)
        second = store.replace("a", b"2", first.generation)
        assert uploads(server) == 3
        assert store.read("a") == (b"2", second)

    def test_replace__same_bytes_of_other_writer(self, server: GcsServer, store: CloudStorage, status: int) -> None:
        """Another writer's object with the same bytes does not count as the own success."""
        # The first attempt fails, another writer replaces the object, and the second attempt finds the bytes it would write.
        first = store.write("count", b"5")
        server.fail_next(1, status, UPLOAD)
        server.put("bucket", "root/count", b"6")
        with pytest.raises(Changed):
            store.replace("count", b"6", first.generation)
        assert uploads(server) == 3

    @pytest.mark.parametrize("size", [10, LARGE])
    def test_write__lost_response(self, server: GcsServer, store: CloudStorage, status: int, size: int) -> None:
        """The object is written again."""
        data = os.urandom(size)
        server.lose_answer(1, UPLOAD if size < LARGE else "PUT /upload", status)
        stored = store.write("a", io.BytesIO(data))
        assert store.read("a") == (data, stored)

    def test_publish__lost_response(self, server: GcsServer, store: CloudStorage, status: int) -> None:
        """The publish succeeds, and later repeats do not write the object again."""
        store.write("a", b"x")
        server.lose_answer(1, "rewriteTo", status)
        store.publish("a", "b")
        written = store.read("b")[1].generation
        store.publish("a", "b")
        assert store.read("b")[1].generation == written


@pytest.mark.parametrize("size", [10, LARGE])
def test_write__damaged_in_transit(server: GcsServer, store: CloudStorage, size: int) -> None:
    """An upload that is damaged in transit is an error and creates no object."""
    server.damage_uploads()
    with pytest.raises(StoreError, match=r"can't write gs://bucket/root/a.*crc32c"):
        store.write("a", os.urandom(size))
    assert server.list("bucket") == []


def test_read__damaged_in_transit(server: GcsServer, store: CloudStorage) -> None:
    """A download that is damaged in transit is an error."""
    store.write("a", b"x")
    server.damage_downloads()
    with pytest.raises(StoreError, match="the bytes were damaged in transit"):
        store.read("a")
    assert store.read("a")[0] == b"x"


def test_publish__large_object(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large object is copied with several requests."""
    with GcsServer("bucket", rewrite=1024 * 1024) as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        store = CloudStorage("gs://bucket")
        data = os.urandom(3_000_000)
        store.write("a", data)
        store.publish("a", "b")
        assert store.read("b")[0] == data
        assert sum("rewriteTo" in line for line in server.requests) == 3


def test_publish__source_deleted(server: GcsServer, store: CloudStorage) -> None:
    """A repeated publish succeeds after a lifecycle rule has deleted the source."""
    store.write("a", b"x")
    store.publish("a", "b")
    server.delete("bucket", "root/a")
    store.publish("a", "b")
    assert store.read("b")[0] == b"x"


def test_open__object_replaced(store: CloudStorage) -> None:
    """A stream raises NotFound if its object is replaced, and never mixes two generations."""
    store.write("a", b"1" * LARGE)
    with store.open("a") as stream:
        assert stream.read(1) == b"1"
        store.write("a", b"2" * LARGE)
        with pytest.raises(NotFound, match="root/a"):
            stream.read()


def test_list__skips_placeholders(server: GcsServer, store: CloudStorage) -> None:
    """Placeholders of folders and hidden objects are not listed."""
    for name in ["root/", "root/a/", "root/.tmp/writable", "root/a/b"]:
        server.put("bucket", name, b"")
    assert list(store.list("")) == ["a/b"]


def test_check_writable__permission_denied(server: GcsServer, store: CloudStorage) -> None:
    """The error names the role that is missing."""
    server.fail_next(1, 403, UPLOAD)
    with pytest.raises(StoreError, match=r"403.*roles/storage\.objectUser on gs://bucket"):
        store.check_writable()


@pytest.mark.parametrize("match", [UPLOAD, "alt=media", "startOffset"])
def test_check_writable__each_permission(server: GcsServer, store: CloudStorage, match: str) -> None:
    """The check fails if writing, reading or listing is not permitted."""
    server.fail_next(1, 403, match)
    with pytest.raises(StoreError, match="403"):
        store.check_writable()


@pytest.mark.usefixtures("server")
def test_check_writable__missing_bucket() -> None:
    """The error names a bucket that does not exist."""
    with pytest.raises(StoreError, match=r"gs://no-bucket.*The specified bucket does not exist"):
        CloudStorage("gs://no-bucket").check_writable()


def test_read__no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error contains the command that creates credentials."""

    def default(**_: Any) -> None:
        raise DefaultCredentialsError("none found")

    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setattr(google.auth, "default", default)
    with pytest.raises(StoreError, match="gcloud auth application-default login"):
        CloudStorage("gs://bucket").read("a")


def test_pickle__no_client(store: CloudStorage) -> None:
    """A pickled copy creates a client of its own."""
    store.write("a", b"x")
    given = CloudStorage("gs://bucket/root", client=store._client)
    copy = pickle.loads(pickle.dumps(given))
    assert copy._client is None
    assert copy.read("a")[0] == b"x"
    assert given._client is store._client
