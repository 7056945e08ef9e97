"""An object store in a directory of this machine."""

from __future__ import annotations

import fcntl
import io
import os
import stat
import time
import uuid
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

import google_crc32c

from storage.objects.base import AlreadyExists, Changed, NotFound, Stored, StoreError
from storage.objects.fsync import explain, flush, flush_folder, make_folder
from storage.objects.names import check_name, check_prefix, is_name
from storage.objects.streams import CHUNK

_HIDDEN = ".tmp"
"""Below the root: files not yet whole, and locks. What a killed process leaves here is never seen, and can be deleted."""

_LOCKS = 64
"""Lock files. Each name belongs to one of them, so they stay this few however many objects there are."""

_STEPS = (1, 1_000, 1_000_000, 1_000_000_000, 2_000_000_000)
"""Nanoseconds. The coarsest clocks of file systems count in 2 s (FAT); ext4, XFS, APFS and tmpfs count in 1 ns."""

_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
"""What opening a file says where there is no object, but perhaps a folder or an object in place of a folder."""


class Directory:
    """Objects are files below `root`; a name is the file's path. One machine, any number of threads and processes.

    A write goes to a hidden file first, is flushed to the disk, and takes its name in one atomic step. Whoever writes a
    name holds a lock on it (flock), so comparing and writing are one step too. An object and a folder can't share a name.

    The generation is the file's time of modification in nanoseconds. It is set to a later one than that of the file
    replaced, so it differs after each write even when two fall on one tick of the clock. crc32c is computed from the
    bytes at each read and listing, so it shows what the disk holds now; a listing reads every file that it names.
    """

    def __init__(self, root: str | os.PathLike[str], clock: Callable[[], int] = time.time_ns) -> None:
        """`root`: the folder, made by the first write. `clock`: nanoseconds since 1970."""
        self._root = os.path.abspath(os.fspath(root))
        self._hidden = os.path.join(self._root, _HIDDEN)
        self._clock = clock

    @property
    def uri(self) -> str:
        return self._root

    def check_writable(self) -> None:
        probe = self._hidden_path()
        try:
            make_folder(self._hidden)
            with open(probe, "xb") as file, self._locked(_HIDDEN):
                self._stamp(file, later_than=None)
                flush(file)
        except OSError as error:
            explain(error, f"objects can't be written below {self._root}")
        finally:
            with suppress(OSError):
                os.unlink(probe)

    def read(self, name: str) -> tuple[bytes, Stored]:
        with self.open(name) as file:
            try:
                data = file.read()
                return data, _stored(name, len(data), google_crc32c.value(data), file.fileno())
            except OSError as error:
                explain(error, f"can't read {name} below {self._root}")

    def open(self, name: str) -> BinaryIO:
        try:
            return open(self._path(name), "rb")
        except _ABSENT as error:
            raise NotFound(f"no object {name} below {self._root}") from error
        except OSError as error:
            explain(error, f"can't read {name} below {self._root}")

    def write(self, name: str, data: bytes | BinaryIO) -> Stored:
        return self._put(name, data, check=lambda _: None)

    def create(self, name: str, data: bytes) -> Stored:
        def check(current: int | None) -> None:
            if current is not None:
                raise AlreadyExists(f"{name} below {self._root} is there, with other bytes")

        try:
            return self._put(name, data, check)
        except AlreadyExists:
            existing, stored = self.read(name)
            if existing != data:
                raise
            # Whoever wrote it may have been killed before this.
            flush_folder(os.path.dirname(self._path(name)))
            return stored

    def replace(self, name: str, data: bytes, generation: int) -> Stored:
        def check(current: int | None) -> None:
            if current != generation:
                raise Changed(f"{name} below {self._root} is at generation {current}, not {generation}: read it again")

        return self._put(name, data, check)

    def publish(self, source: str, target: str) -> None:
        source_path, target_path = self._path(source), self._path(target)
        try:
            with self._locked(target):
                if os.path.isfile(source_path):
                    with open(source_path, "rb") as file:
                        self._stamp(file, later_than=_generation(target_path))
                    make_folder(os.path.dirname(target_path))
                    os.replace(source_path, target_path)
                elif not os.path.isfile(target_path):
                    raise NotFound(f"neither {source} nor {target} is below {self._root}: there is nothing to publish")
                flush_folder(os.path.dirname(target_path))
        except OSError as error:
            explain(error, f"can't publish {source} as {target} below {self._root}")

    def list(self, prefix: str, start: str = "") -> Iterator[str]:
        check_prefix(prefix)
        folder = prefix.rpartition("/")[0]
        try:
            yield from self._walk(f"{folder}/" if folder else "", prefix, start)
        except OSError as error:
            explain(error, f"can't list {prefix}* below {self._root}")

    def _walk(self, folder: str, prefix: str, start: str) -> Iterator[str]:
        """What lies below `folder`, which is empty (the root) or ends with a slash."""
        try:
            with os.scandir(os.path.join(self._root, folder)) as entries:
                # A folder sorts with its slash: `a-b` comes before `a/b`, as the whole names do.
                names = sorted(f"{folder}{e.name}/" if e.is_dir() else f"{folder}{e.name}" for e in entries if is_name(e.name))
        except (FileNotFoundError, NotADirectoryError):
            return
        for name in names:
            if name.endswith("/"):
                if (name.startswith(prefix) or prefix.startswith(name)) and (name >= start or start.startswith(name)):
                    yield from self._walk(name, prefix, start)
            elif name.startswith(prefix) and name >= start:
                yield name

    def _put(self, name: str, data: bytes | BinaryIO, check: Callable[[int | None], None]) -> Stored:
        """Writes `name` if `check`, given the current generation, raises nothing."""
        path, hidden = self._path(name), self._hidden_path()
        source: BinaryIO = io.BytesIO(data) if isinstance(data, bytes) else data
        source.seek(0)
        size, checksum = 0, 0
        try:
            make_folder(self._hidden)
            with open(hidden, "xb") as file:
                while chunk := source.read(CHUNK):
                    file.write(chunk)
                    size, checksum = size + len(chunk), google_crc32c.extend(checksum, chunk)
                with self._locked(name):
                    current = _generation(path)
                    check(current)
                    file.flush()
                    self._stamp(file, later_than=current)
                    flush(file)
                    make_folder(os.path.dirname(path))
                    os.replace(hidden, path)
                    flush_folder(os.path.dirname(path))
                return _stored(name, size, checksum, file.fileno())
        except OSError as error:
            explain(error, f"can't write {name} below {self._root}")
        finally:
            # After a write it has taken its name; after an error, that error is the one to report.
            with suppress(OSError):
                os.unlink(hidden)

    def _stamp(self, file: BinaryIO, later_than: int | None) -> None:
        """Sets the file's generation: now, or later where the file to be replaced is of now or of the future."""
        now, last = self._clock(), later_than or 0
        for step in _STEPS:
            moment = max(now, last + step)
            os.utime(file.fileno(), ns=(moment, moment))
            if os.fstat(file.fileno()).st_mtime_ns > last:
                return
        raise StoreError(f"the file system of {self._root} keeps no times of modification: choose a folder on another disk")

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """Keeps every other thread and process from writing `name` meanwhile; ends with the process, however that ends."""
        make_folder(self._hidden)
        with open(os.path.join(self._hidden, f"lock-{zlib.crc32(name.encode()) % _LOCKS:02}"), "ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _path(self, name: str) -> str:
        check_name(name)
        return os.path.join(self._root, name)

    def _hidden_path(self) -> str:
        return os.path.join(self._hidden, uuid.uuid4().hex)


def _stored(name: str, size: int, crc32c: int, descriptor: int) -> Stored:
    return Stored(name, size, crc32c, generation=os.fstat(descriptor).st_mtime_ns)


def _generation(path: str) -> int | None:
    """None where there is no object, but perhaps a folder."""
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_mtime_ns if stat.S_ISREG(status.st_mode) else None
