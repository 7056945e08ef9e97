"""What every store promises: one contract, over a directory, two stand-ins for Cloud Storage and, where named, a real bucket.

EVENT_DELIVERY_TEST_BUCKET=gs://bucket[/prefix] adds the real one; objects are written and deleted below a folder of its own.
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
from tests.support.fake_gcs_server import fake_gcs_server, find_fake_gcs_server
from tests.support.gcs import GcsServer

BUCKET = "contract-bucket"
REAL = os.environ.get("EVENT_DELIVERY_TEST_BUCKET", "")


@pytest.fixture(scope="module")
def strict_server() -> Iterator[str]:
    with GcsServer(BUCKET) as server:
        yield server.url


@pytest.fixture(scope="module")
def foreign_server() -> Iterator[str]:
    binary, reason = find_fake_gcs_server()
    if not binary:
        pytest.skip(reason)
    with fake_gcs_server(binary, BUCKET) as url:
        yield url


@pytest.fixture(params=["directory", "strict_server", "foreign_server", "real_bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    folder = uuid.uuid4().hex
    if request.param == "directory":
        yield open_store(str(tmp_path / folder))
    elif request.param == "real_bucket":
        if not REAL:
            pytest.skip("EVENT_DELIVERY_TEST_BUCKET names no bucket")
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


def together(count: int, act: Callable[[int], object]) -> list[object]:
    """What `act` returns, or the StoreError it raises, for 0 to count - 1 at the same moment."""
    barrier = threading.Barrier(count)

    def run(number: int) -> object:
        barrier.wait()
        try:
            return act(number)
        except StoreError as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


class TestBuckets:
    def test_what_was_written_is_read_and_listed_at_once(self, store: ObjectStore) -> None:
        written = store.write("a/b.avro", b"123456789")
        assert (written.name, written.size) == ("a/b.avro", 9)
        assert store.read("a/b.avro") == (b"123456789", written)
        assert list(store.list("a/")) == list(store.list("")) == ["a/b.avro"]

    def test_crc32c_is_the_published_one_of_the_bytes(self, store: ObjectStore) -> None:
        assert store.write("check", b"123456789").crc32c == 0xE3069283  # The check value in the catalogue of CRCs.
        assert store.write("empty", b"").crc32c == 0
        assert [store.read(name)[1].crc32c for name in ("check", "empty")] == [0xE3069283, 0]

    def test_each_write_has_another_generation_even_of_equal_bytes(self, store: ObjectStore) -> None:
        generations = [store.write("a", b"same").generation for _ in range(5)]
        generations.append(store.replace("a", b"same", generations[-1]).generation)
        assert len(set(generations)) == 6
        assert store.read("a")[1].generation == generations[-1]

    def test_a_write_replaces_what_is_there(self, store: ObjectStore) -> None:
        store.write("a", b"a longer text than the second")
        store.write("a", b"second")
        assert store.read("a")[0] == b"second"

    def test_a_second_create_of_the_same_name_is_refused(self, store: ObjectStore) -> None:
        store.create("a/1", b"one")
        with pytest.raises(AlreadyExists, match="a/1"):
            store.create("a/1", b"two")
        assert store.read("a/1")[0] == b"one"

    def test_a_second_create_with_the_same_bytes_is_the_first_one(self, store: ObjectStore) -> None:
        first = store.create("a/1", b"one")
        assert store.create("a/1", b"one") == first

    def test_of_eight_creators_at_once_exactly_one_wins(self, store: ObjectStore) -> None:
        answers = together(8, lambda number: store.create("a/1", f"by {number}".encode()))
        winners = [number for number, answer in enumerate(answers) if not isinstance(answer, StoreError)]
        assert len(winners) == 1
        assert store.read("a/1")[0] == f"by {winners[0]}".encode()
        assert sum(isinstance(answer, AlreadyExists) for answer in answers) == 7

    def test_replace_is_refused_once_somebody_else_has_written(self, store: ObjectStore) -> None:
        first = store.write("a", b"first")
        second = store.replace("a", b"second", first.generation)
        with pytest.raises(Changed, match="a"):
            store.replace("a", b"third", first.generation)
        assert store.read("a") == (b"second", second)

    def test_replace_with_the_bytes_that_somebody_else_wrote_is_refused_too(self, store: ObjectStore) -> None:
        first = store.write("count", b"5")
        store.replace("count", b"6", first.generation)
        with pytest.raises(Changed):
            store.replace("count", b"6", first.generation)

    @pytest.mark.parametrize("generation", [0, 1])
    def test_replace_of_what_is_not_there_is_refused(self, store: ObjectStore, generation: int) -> None:
        with pytest.raises(Changed):
            store.replace("gone", b"x", generation)
        assert names(store, "") == []

    def test_writers_that_read_modify_and_replace_lose_nothing(self, store: ObjectStore) -> None:
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

        assert together(4, add) == [None] * 4
        assert store.read("count")[0] == b"24"

    def test_readers_see_whole_objects_while_they_are_written(self, store: ObjectStore) -> None:
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

        assert together(3, lambda number: write() if number == 0 else read()) == [None] * 3

    def test_publish_moves_the_whole_object_and_can_be_repeated(self, store: ObjectStore) -> None:
        data = os.urandom(1_500_000)
        written = store.write("staging/a", data)
        store.publish("staging/a", "events/x/a")
        store.publish("staging/a", "events/x/a")
        found, stored = store.read("events/x/a")
        assert found == data
        assert (stored.size, stored.crc32c) == (written.size, written.crc32c)
        assert names(store, "events/") == ["events/x/a"]

    def test_publish_replaces_other_bytes(self, store: ObjectStore) -> None:
        before = store.write("target", b"before")
        store.write("source", b"after!")
        store.publish("source", "target")
        data, stored = store.read("target")
        assert data == b"after!"
        assert stored.generation != before.generation

    def test_publish_of_nothing_is_an_error(self, store: ObjectStore) -> None:
        with pytest.raises(NotFound, match="neither staging/a nor events/a"):
            store.publish("staging/a", "events/a")

    def test_a_listing_is_in_the_order_of_whole_names(self, store: ObjectStore) -> None:
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

    def test_a_store_without_objects_lists_none(self, store: ObjectStore) -> None:
        assert names(store, "") == []

    def test_a_large_stream_is_written_from_its_start_and_read_as_a_stream(self, store: ObjectStore) -> None:
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

    def test_an_empty_object_can_be_written_and_streamed(self, store: ObjectStore) -> None:
        assert store.create("_SUCCESS", b"").size == 0
        with store.open("_SUCCESS") as stream:
            assert stream.read() == b""

    @pytest.mark.parametrize("name", ["gone", "folder", "folder/gone", "folder/there/below"])
    def test_what_is_not_there_is_not_found(self, store: ObjectStore, name: str) -> None:
        store.write("folder/there", b"x")
        with pytest.raises(NotFound, match=name):
            store.read(name)
        with pytest.raises(NotFound, match=name):
            store.open(name)

    def test_it_can_be_pickled(self, store: ObjectStore) -> None:
        store.write("a", b"x")
        copy = pickle.loads(pickle.dumps(store))
        assert copy.uri == store.uri
        assert copy.read("a") == store.read("a")
        copy.write("b", b"y")
        assert store.read("b")[0] == b"y"

    def test_a_check_of_writability_leaves_no_object(self, store: ObjectStore) -> None:
        store.check_writable()
        store.check_writable()
        assert names(store, "") == []
