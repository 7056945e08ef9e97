"""What a directory promises beyond the contract of all stores: processes, power cuts, disks that are full or not ours."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from storage.objects.base import Changed, StoreError
from storage.objects.local import Directory

COUNT = """
import sys
from storage.objects.base import Changed
from storage.objects.local import Directory

store, done = Directory(sys.argv[1]), 0
while done < 40:
    data, stored = store.read("count")
    try:
        store.replace("count", b"%d" % (int(data) + 1), stored.generation)
        done += 1
    except Changed:
        pass
"""

DIE = """
import io, os, signal, sys
from storage.objects.local import Directory

class Deadly(io.BytesIO):
    def read(self, size=-1):
        if self.tell():
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(1000)

Directory(sys.argv[1]).write("events/a", Deadly(bytes(2000)))
"""


def start(script: str, root: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", script, str(root)], cwd=Path(__file__).parents[3])


def test_processes_that_read_modify_and_replace_lose_nothing(tmp_path: Path) -> None:
    store = Directory(str(tmp_path))
    store.create("count", b"0")
    processes = [start(COUNT, tmp_path) for _ in range(3)]
    assert [process.wait(timeout=30) for process in processes] == [0, 0, 0]
    assert store.read("count")[0] == b"120"


def test_a_process_killed_in_the_midst_of_a_write_leaves_nothing_to_be_seen(tmp_path: Path) -> None:
    store = Directory(str(tmp_path))
    store.write("events/b", b"b")
    assert start(DIE, tmp_path).wait(timeout=30) == -signal.SIGKILL
    assert len([path for path in (tmp_path / ".tmp").iterdir() if not path.name.startswith("lock-")]) == 1
    assert list(store.list("")) == ["events/b"]
    assert store.create("events/a", b"again").size == 5


def test_a_generation_is_not_repeated_when_the_clock_stands_still_or_goes_back(tmp_path: Path) -> None:
    # Inode numbers and sizes do repeat: the first file's inode is free again after the second write.
    moments = iter([10**18] * 100 + [10**18 - 10**9] * 100)
    store = Directory(str(tmp_path), clock=lambda: next(moments))
    generations = [store.write("a", b"same").generation for _ in range(200)]
    assert generations == sorted(set(generations))


def test_a_published_object_has_another_generation_than_the_one_it_replaces(tmp_path: Path) -> None:
    store = Directory(str(tmp_path), clock=lambda: 10**18)
    before = store.write("target", b"before").generation
    assert store.write("source", b"after").generation == before
    store.publish("source", "target")
    assert store.read("target")[1].generation > before
    with pytest.raises(Changed):
        store.replace("target", b"x", before)


def test_a_file_system_with_times_of_two_seconds_still_gives_new_generations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    utime = os.utime
    monkeypatch.setattr(os, "utime", lambda file, ns: utime(file, ns=tuple(moment // (2 * 10**9) * 2 * 10**9 for moment in ns)))
    store = Directory(str(tmp_path))
    generations = [store.write("a", b"same").generation for _ in range(5)]
    assert generations == sorted(set(generations))


def test_hidden_and_foreign_files_are_not_listed(tmp_path: Path) -> None:
    store = Directory(str(tmp_path))
    store.write("a/b", b"b")
    for name in [".DS_Store", "a/.b.swp", "back\\slash"]:
        (tmp_path / name).write_bytes(b"x")
    assert list(store.list("")) == ["a/b"]


def test_a_listing_opens_no_folder_outside_its_prefix_and_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Directory(str(tmp_path))
    for name in ["a/1/x", "a/2/x", "a/3/x", "b/1/x"]:
        store.write(name, b"x")
    opened: list[str] = []
    scandir = os.scandir

    def note(path: str) -> object:
        opened.append(os.path.relpath(path, tmp_path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", note)
    assert list(store.list("a/", "a/2/")) == ["a/2/x", "a/3/x"]
    assert opened == ["a", "a/2", "a/3"]


def test_a_listing_goes_on_while_others_publish(tmp_path: Path) -> None:
    store = Directory(str(tmp_path))
    for number in range(3):
        store.write(f"staging/{number}", b"x")
    listing = store.list("staging/")
    assert next(listing) == "staging/0"
    store.publish("staging/1", "events/1")
    assert "staging/2" in list(listing)


def test_crc32c_shows_what_the_disk_holds_now(tmp_path: Path) -> None:
    store = Directory(str(tmp_path))
    written = store.write("a", b"bytes")
    (tmp_path / "a").write_bytes(b"Bytes")
    assert store.read("a")[1].crc32c != written.crc32c


def test_the_root_is_made_absolute_and_made_by_the_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = Directory("new/storage/")
    assert store.uri == str(tmp_path / "new" / "storage")
    store.check_writable()
    assert (tmp_path / "new" / "storage").is_dir()


def test_a_file_in_place_of_the_folder_is_an_error_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for root in [tmp_path / "file", tmp_path / "file" / "below"]:
        with pytest.raises(StoreError, match="file that has the name of a needed folder") as error:
            Directory(str(root)).check_writable()
        assert str(root) in str(error.value)


def test_a_folder_that_no_user_can_make_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(StoreError, match=r"can't be written below /proc/buckets: .*What to do: "):
        Directory("/proc/buckets").check_writable()


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (errno.ENOSPC, "No space left on device.*free some space"),
        (errno.EACCES, "Permission denied.*allow this user"),
        (errno.EROFS, "Read-only file system.*a writable disk"),
    ],
)
def test_a_disk_that_refuses_is_an_error_that_names_the_object_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, hint: str
) -> None:
    store = Directory(str(tmp_path))
    before = store.write("a", b"before")

    def refuse(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StoreError, match=f"can't write a below {tmp_path}: {hint}"):
        store.replace("a", b"after", before.generation)
    with pytest.raises(StoreError, match=hint):
        store.check_writable()
    monkeypatch.undo()
    assert store.read("a") == (b"before", before)
    assert [path.name for path in (tmp_path / ".tmp").iterdir() if not path.name.startswith("lock-")] == []


def test_an_object_below_an_object_is_an_error_that_says_so(tmp_path: Path) -> None:
    store = Directory(str(tmp_path))
    store.write("a/b", b"x")
    with pytest.raises(StoreError, match="file that has the name of a needed folder"):
        store.write("a/b/c", b"x")
    with pytest.raises(StoreError, match="a folder has the name of the object"):
        store.create("a", b"x")


def test_the_bytes_and_the_name_are_on_the_disk_before_a_write_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Directory(str(tmp_path))
    store.check_writable()
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(descriptor: int) -> None:
        path = os.path.relpath(os.readlink(f"/proc/self/fd/{descriptor}"), tmp_path)
        steps.append("flush a hidden file" if path.startswith(".tmp/") else f"flush {path}")
        fsync(descriptor)

    def note_replace(source: str, target: str) -> None:
        steps.append(f"name {os.path.relpath(target, tmp_path)}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    store.write("a/b/c", b"x")
    assert steps == ["flush a hidden file", "flush .", "flush a", "name a/b/c", "flush a/b"]
    steps.clear()
    store.publish("a/b/c", "d")
    assert steps == ["name d", "flush ."]


def test_a_thousand_small_objects_take_seconds(tmp_path: Path) -> None:
    # 0.5 to 1.5 ms an object on a disk of a virtual machine. The limit is far above, to hold on slow ones.
    store = Directory(str(tmp_path))
    began = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: store.write(f"{number % 50}/{number}", b"x" * 3000), range(1000)))
    assert time.monotonic() - began < 20
    assert len(list(store.list(""))) == 1000
