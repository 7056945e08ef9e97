"""The contract of ObjectStore, for a directory, two emulators of Cloud Storage and, optionally, Cloud Storage itself.

EVENT_DELIVERY_TEST_BUCKET=gs://bucket[/prefix] adds Cloud Storage. Objects are written and deleted in a new folder there.
"""

from __future__ import annotations

import io
import os
import pickle
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import google_crc32c
import pytest
from google.cloud import storage

from storage.objects.base import AlreadyExists, Changed, NotFound, ObjectStore, StoreError
from storage.open import open_store
from tests.support.fake_gcs_server import fake_gcs_server
from tests.support.gcs import GcsServer

BUCKET = "contract-bucket"
REAL = os.environ.get("EVENT_DELIVERY_TEST_BUCKET", "")


@pytest.fixture(scope="module")
def strict_server() -> Iterator[str]:
    with GcsServer(BUCKET) as server:
        yield server.url


@pytest.fixture(scope="module")
def third_party_server(fake_gcs_server_binary: str) -> Iterator[str]:
    with fake_gcs_server(fake_gcs_server_binary, BUCKET) as url:
        yield url


@pytest.fixture(params=["directory", "strict_server", "third_party_server", "real_bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    folder = uuid.uuid4().hex
    if request.param == "directory":
        yield open_store(str(tmp_path / folder))
    elif request.param == "real_bucket":
        if not REAL:
            pytest.skip("EVENT_DELIVERY_TEST_BUCKET is not set")
        real = open_store(f"{REAL}/{folder}")
        yield real
        bucket, _, prefix = real.uri.removeprefix("gs://").partition("/")
        for blob in storage.Client(project=None).list_blobs(bucket, prefix=f"{prefix}/"):
            blob.delete()
    else:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", request.getfixturevalue(request.param))
        yield open_store(f"gs://{BUCKET}/{folder}")


def names(store: ObjectStore, prefix: str, start: str = "") -> list[str]:
    return list(store.list(prefix, start))


def run_concurrently(count: int, call: Callable[[int], object]) -> list[object]:
    """Run `call` with 0 to count - 1 in as many threads. Return what each returned, or the StoreError that it raised."""
    barrier = threading.Barrier(count)

    def run(number: int) -> object:
        barrier.wait()
        try:
            return call(number)
        except StoreError as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


class TestObjectStore:
    def test_write__read_and_listed_at_once(self, store: ObjectStore) -> None:
        """Reads and listings see a finished write at once."""
        written = store.write("a/b.avro", b"123456789")
        assert (written.name, written.size) == ("a/b.avro", 9)
        assert store.read("a/b.avro") == (b"123456789", written)
        assert list(store.list("a/")) == list(store.list("")) == ["a/b.avro"]

    def test_write__crc32c(self, store: ObjectStore) -> None:
        """The crc32c of the metadata is the CRC-32C of the bytes."""
        assert store.write("check", b"123456789").crc32c == 0xE3069283  # The check value in the catalogue of CRCs.
        assert store.write("empty", b"").crc32c == 0
        assert [store.read(name)[1].crc32c for name in ("check", "empty")] == [0xE3069283, 0]

    def test_write__new_generation(self, store: ObjectStore) -> None:
        """Each write has a generation of its own, even with equal bytes."""
        generations = [store.write("a", b"same").generation for _ in range(5)]
        generations.append(store.replace("a", b"same", generations[-1]).generation)
        assert len(set(generations)) == 6
        assert store.read("a")[1].generation == generations[-1]

    def test_write__replaces_longer_object(self, store: ObjectStore) -> None:
        """A write replaces an existing object completely."""
        store.write("a", b"a longer text than the second")
        store.write("a", b"second")
        assert store.read("a")[0] == b"second"

    def test_create__exists_with_other_bytes(self, store: ObjectStore) -> None:
        """A create with other bytes than the existing object's is refused."""
        store.create("a/1", b"one")
        with pytest.raises(AlreadyExists, match="a/1"):
            store.create("a/1", b"two")
        assert store.read("a/1")[0] == b"one"

    def test_create__exists_with_same_bytes(self, store: ObjectStore) -> None:
        """A repeated create with the same bytes returns the metadata of the first one."""
        first = store.create("a/1", b"one")
        assert store.create("a/1", b"one") == first

    def test_create__concurrent(self, store: ObjectStore) -> None:
        """One of eight concurrent creates with different bytes succeeds, and the others are refused."""
        results = run_concurrently(8, lambda number: store.create("a/1", f"by {number}".encode()))
        winners = [number for number, result in enumerate(results) if not isinstance(result, StoreError)]
        assert len(winners) == 1
        assert store.read("a/1")[0] == f"by {winners[0]}".encode()
        assert sum(isinstance(result, AlreadyExists) for result in results) == 7

    def test_replace__stale_generation(self, store: ObjectStore) -> None:
        """A replace with the generation before the last write is refused."""
        first = store.write("a", b"first")
        second = store.replace("a", b"second", first.generation)
        with pytest.raises(Changed, match="a"):
            store.replace("a", b"third", first.generation)
        assert store.read("a") == (b"second", second)

    def test_replace__stale_generation_same_bytes(self, store: ObjectStore) -> None:
        """A stale replace is refused even if it has the bytes that another writer wrote."""
        first = store.write("count", b"5")
        store.replace("count", b"6", first.generation)
        with pytest.raises(Changed):
            store.replace("count", b"6", first.generation)

    @pytest.mark.parametrize("generation", [0, 1])
    def test_replace__missing(self, store: ObjectStore, generation: int) -> None:
        """A replace of a missing object is refused and creates nothing."""
        with pytest.raises(Changed):
            store.replace("gone", b"x", generation)
        assert names(store, "") == []

    def test_replace__concurrent_increments(self, store: ObjectStore) -> None:
        """Four threads that increment a counter with read and replace lose no update."""
        store.create("count", b"0")

        def add(_: int) -> None:
            done = 0
            while done < 6:
                data, stored = store.read("count")
                try:
                    store.replace("count", b"%d" % (int(data) + 1), stored.generation)
                except Changed:
                    continue
                done += 1

        assert run_concurrently(4, add) == [None] * 4
        assert store.read("count")[0] == b"24"

    def test_write__concurrent_readers(self, store: ObjectStore) -> None:
        """Concurrent readers see complete objects only, each with its own metadata."""
        store.write("a", b"0" * 100_000)
        done = threading.Event()

        def write() -> None:
            try:
                for digit in b"123456789":
                    store.write("a", bytes([digit]) * 100_000)
            finally:
                done.set()

        def read() -> None:
            while not done.is_set():
                data, stored = store.read("a")
                assert len(set(data)) == 1
                assert (stored.size, stored.crc32c) == (100_000, google_crc32c.value(data))
                assert names(store, "") == ["a"]

        assert run_concurrently(3, lambda number: write() if number == 0 else read()) == [None] * 3

    def test_publish__repeated(self, store: ObjectStore) -> None:
        """A publish moves the object, and a repeat of it changes nothing."""
        data = os.urandom(1_500_000)
        written = store.write("staging/a", data)
        store.publish("staging/a", "events/x/a")
        store.publish("staging/a", "events/x/a")
        published, stored = store.read("events/x/a")
        assert published == data
        assert (stored.size, stored.crc32c) == (written.size, written.crc32c)
        assert names(store, "events/") == ["events/x/a"]

    def test_publish__replaces_other_bytes(self, store: ObjectStore) -> None:
        """A publish replaces a target with other bytes and gives it a new generation."""
        before = store.write("target", b"before")
        store.write("source", b"after!")
        store.publish("source", "target")
        data, stored = store.read("target")
        assert data == b"after!"
        assert stored.generation != before.generation

    def test_publish__neither_exists(self, store: ObjectStore) -> None:
        """A publish raises NotFound if neither source nor target exists."""
        with pytest.raises(NotFound, match="neither staging/a nor events/a"):
            store.publish("staging/a", "events/a")

    def test_list__order_prefix_and_start(self, store: ObjectStore) -> None:
        """A listing is in the order of whole names, from any prefix and start."""
        ordered = ["l/a-b", "l/a.b", "l/a/b", "l/a/c/d", "l/a/c0", "l/a0", "l/b", "l/z", "l/ä", "l/\uffee", "l/\U00010000"]
        for name in reversed(ordered):
            store.write(name, b"x")
        store.write("k", b"x")
        store.write("m", b"x")
        assert names(store, "l/") == ordered
        assert names(store, "l/a") == ordered[:6]
        assert names(store, "l/a/") == ordered[2:5]
        assert names(store, "l/a/c") == ordered[3:5]
        assert names(store, "l/a/c/d") == ["l/a/c/d"]
        assert names(store, "") == ["k", *ordered, "m"]
        assert names(store, "nothing/") == []
        for start in ["l/a.", "l/a/c", "l/a/c/d", "l/a/c/e", "l/a/d", "l/b", "l/c", "m"]:
            assert names(store, "l/", start) == [name for name in ordered if name >= start]
        assert names(store, "l/a/", "l/a/c/d") == ["l/a/c/d", "l/a/c0"]
        assert names(store, "l/", "a") == ordered

    def test_list__empty_store(self, store: ObjectStore) -> None:
        """A store without objects lists no names."""
        assert names(store, "") == []

    def test_open__large_stream(self, store: ObjectStore) -> None:
        """A large stream is written from its start, and can be read with seeks."""
        data = os.urandom(20 * 1024 * 1024 + 7)
        source = io.BytesIO(data)
        source.seek(0, io.SEEK_END)
        stored = store.write("large", source)
        assert (stored.size, stored.crc32c) == (len(data), google_crc32c.value(data))
        with store.open("large") as stream:
            assert stream.read(10) == data[:10]
            assert stream.seek(-1000, io.SEEK_END) == len(data) - 1000
            assert stream.read() == data[-1000:]
            assert stream.seek(5) == 5
            assert stream.read() == data[5:]
            assert stream.read(1) == b""

    def test_open__empty_object(self, store: ObjectStore) -> None:
        """An empty object can be created and read as a stream."""
        assert store.create("_SUCCESS", b"").size == 0
        with store.open("_SUCCESS") as stream:
            assert stream.read() == b""

    @pytest.mark.parametrize("name", ["gone", "folder", "folder/gone", "folder/there/below"])
    def test_read__missing(self, store: ObjectStore, name: str) -> None:
        """Reading a missing name, a folder or a name below an object raises NotFound."""
        store.write("folder/there", b"x")
        with pytest.raises(NotFound, match=name):
            store.read(name)
        with pytest.raises(NotFound, match=name):
            store.open(name)

    def test_pickle__same_objects(self, store: ObjectStore) -> None:
        """A pickled copy of a store reads and writes the same objects."""
        store.write("a", b"x")
        copy = pickle.loads(pickle.dumps(store))
        assert copy.uri == store.uri
        assert copy.read("a") == store.read("a")
        copy.write("b", b"y")
        assert store.read("b")[0] == b"y"

    def test_check_writable__leaves_no_object(self, store: ObjectStore) -> None:
        """The check can be repeated and leaves no listed object."""
        store.check_writable()
        store.check_writable()
        assert names(store, "") == []
