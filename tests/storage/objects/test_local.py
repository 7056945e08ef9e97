"""Directory beyond the contract of ObjectStore: several processes, power cuts, and disks that are full or not writable."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from storage.objects.base import Changed, StoreError
from storage.objects.local import Directory
from tests.support.clock import PATIENCE

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


def test_replace__concurrent_processes(tmp_path: Path) -> None:
    """Three processes that increment a counter with read and replace lose no update."""
    store = Directory(str(tmp_path))
    store.create("count", b"0")
    processes = [start(COUNT, tmp_path) for _ in range(3)]
    assert [process.wait(timeout=PATIENCE) for process in processes] == [0, 0, 0]
    assert store.read("count")[0] == b"120"


def test_write__process_killed(tmp_path: Path) -> None:
    """A process that is killed during a write leaves a hidden file, but no listed object."""
    store = Directory(str(tmp_path))
    store.write("events/b", b"b")
    assert start(DIE, tmp_path).wait(timeout=PATIENCE) == -signal.SIGKILL
    assert len([path for path in (tmp_path / ".tmp").iterdir() if not path.name.startswith("lock-")]) == 1
    assert list(store.list("")) == ["events/b"]
    assert store.create("events/a", b"again").size == 5


def test_write__generation_with_stuck_clock(tmp_path: Path) -> None:
    """Generations increase even if the clock stands still or is set back."""
    # Inode numbers and sizes can't tell the files apart: the first file's inode is free after the second write.
    times = iter([10**18] * 100 + [10**18 - 10**9] * 100)
    store = Directory(str(tmp_path), clock=lambda: next(times))
    generations = [store.write("a", b"same").generation for _ in range(200)]
    assert generations == sorted(set(generations))


def test_publish__new_generation(tmp_path: Path) -> None:
    """A published object has a later generation than the object that it replaces."""
    store = Directory(str(tmp_path), clock=lambda: 10**18)
    before = store.write("target", b"before").generation
    assert store.write("source", b"after").generation == before
    store.publish("source", "target")
    assert store.read("target")[1].generation > before
    with pytest.raises(Changed):
        store.replace("target", b"x", before)


def test_write__generation_on_coarse_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Generations increase on a file system whose times have a resolution of two seconds."""
    utime = os.utime
    monkeypatch.setattr(os, "utime", lambda file, ns: utime(file, ns=tuple(value // (2 * 10**9) * 2 * 10**9 for value in ns)))
    store = Directory(str(tmp_path))
    generations = [store.write("a", b"same").generation for _ in range(5)]
    assert generations == sorted(set(generations))


def test_list__skips_invalid_names(tmp_path: Path) -> None:
    """Hidden files, and files whose names are no valid object names, are not listed."""
    store = Directory(str(tmp_path))
    store.write("a/b", b"b")
    for name in [".DS_Store", "a/.b.swp", "back\\slash"]:
        (tmp_path / name).write_bytes(b"x")
    assert list(store.list("")) == ["a/b"]


def test_list__opens_needed_folders_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listing opens no folder that its prefix or start excludes."""
    store = Directory(str(tmp_path))
    for name in ["a/1/x", "a/2/x", "a/3/x", "b/1/x"]:
        store.write(name, b"x")
    opened: list[str] = []
    scandir = os.scandir

    def record(path: str) -> object:
        opened.append(os.path.relpath(path, tmp_path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", record)
    assert list(store.list("a/", "a/2/")) == ["a/2/x", "a/3/x"]
    assert opened == ["a", "a/2", "a/3"]


def test_list__concurrent_publish(tmp_path: Path) -> None:
    """A listing continues if an object is published meanwhile."""
    store = Directory(str(tmp_path))
    for number in range(3):
        store.write(f"staging/{number}", b"x")
    listing = store.list("staging/")
    assert next(listing) == "staging/0"
    store.publish("staging/1", "events/1")
    assert "staging/2" in list(listing)


def test_read__crc32c_of_changed_file(tmp_path: Path) -> None:
    """The crc32c is that of the bytes on the disk, not of the bytes once written."""
    store = Directory(str(tmp_path))
    written = store.write("a", b"bytes")
    (tmp_path / "a").write_bytes(b"Bytes")
    assert store.read("a")[1].crc32c != written.crc32c


def test_check_writable__creates_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The root is made absolute, and the check creates it."""
    monkeypatch.chdir(tmp_path)
    store = Directory("new/storage/")
    assert store.uri == str(tmp_path / "new" / "storage")
    store.check_writable()
    assert (tmp_path / "new" / "storage").is_dir()


def test_check_writable__root_is_a_file(tmp_path: Path) -> None:
    """The error names the root if it, or a folder above it, is a file."""
    (tmp_path / "file").write_bytes(b"")
    for root in [tmp_path / "file", tmp_path / "file" / "below"]:
        with pytest.raises(StoreError, match="file that has the name of a needed folder") as error:
            Directory(str(root)).check_writable()
        assert str(root) in str(error.value)


def test_check_writable__root_not_creatable() -> None:
    """The error contains the root and a remedy if the root can't be created."""
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
def test_replace__disk_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, hint: str) -> None:
    """An error of the disk names object, cause and remedy, and leaves the old object and no file."""
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


def test_write__object_and_folder_of_one_name(tmp_path: Path) -> None:
    """An object can't have the name of a folder, nor lie below another object."""
    store = Directory(str(tmp_path))
    store.write("a/b", b"x")
    with pytest.raises(StoreError, match="file that has the name of a needed folder"):
        store.write("a/b/c", b"x")
    with pytest.raises(StoreError, match="a folder has the name of the object"):
        store.create("a", b"x")


def test_write__fsync_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write fsyncs the bytes before it renames the file, and the folder afterwards."""
    store = Directory(str(tmp_path))
    store.check_writable()
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace

    def record_fsync(descriptor: int) -> None:
        path = os.path.relpath(os.readlink(f"/proc/self/fd/{descriptor}"), tmp_path)
        steps.append("flush a hidden file" if path.startswith(".tmp/") else f"flush {path}")
        fsync(descriptor)

    def record_replace(source: str, target: str) -> None:
        steps.append(f"name {os.path.relpath(target, tmp_path)}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "replace", record_replace)
    store.write("a/b/c", b"x")
    assert steps == ["flush a hidden file", "flush .", "flush a", "name a/b/c", "flush a/b"]
    steps.clear()
    store.publish("a/b/c", "d")
    assert steps == ["name d", "flush ."]


def test_write__flushes_twice_an_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flush is nearly all of the time that a small object takes: 0.5 to 1.5 ms on the disk of a virtual machine."""
    store, flushed, fsync = Directory(str(tmp_path)), [], os.fsync

    def note(descriptor: int) -> None:
        flushed.append(descriptor)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: store.write(f"{number % 50}/{number}", b"x" * 3000), range(1000)))
    assert 2 * 1000 <= len(flushed) <= 2 * 1000 + 4 * 50
    assert len(list(store.list(""))) == 1000
