"""An object store in a local directory."""

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
from storage.objects.fsync import flush, flush_folder, make_folder, raise_store_error
from storage.objects.names import check_name, check_prefix, is_name
from storage.objects.streams import CHUNK

_HIDDEN = ".tmp"
"""Folder below the root for unfinished files and for locks.

Files that a killed process left here are never listed and can be deleted.
"""

_LOCKS = 64
"""Number of lock files. Each object name is hashed to one, so their number does not grow with the number of objects."""

_CLOCK_TICKS = (1, 1_000, 1_000_000, 1_000_000_000, 2_000_000_000)
"""Resolutions of times that file systems have, in nanoseconds: from 1 ns on ext4, XFS, APFS and tmpfs to 2 s on FAT."""

_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
"""Errors of opening a path that is no object: it is missing, or it is a folder, or one of its folders is an object."""


class Directory:
    """Object store in a folder: an object is a file, and its name is the path below the root.

    For any number of threads and processes of one machine. An object and a folder can't have the same name.

    A write goes to a hidden file, which is fsynced and then renamed atomically. Each writer of a name holds a lock (flock),
    so that checking the generation and writing are one atomic step.

    The generation is the file's modification time in nanoseconds. A write sets it later than that of the file that it
    replaces, so it differs after each write, even after two within one tick of the clock.

    The crc32c is computed from the bytes at each read, so that it describes the present content of the disk.
    """

    def __init__(self, root: str | os.PathLike[str], clock: Callable[[], int] = time.time_ns) -> None:
        """Create a store without accessing the disk.

        Args:
            root: Folder of the store. The first write creates it.
            clock: Returns nanoseconds since 1970.
        """
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
                self._set_generation(file, later_than=None)
                flush(file)
        except OSError as error:
            raise_store_error(error, f"objects can't be written below {self._root}")
        finally:
            with suppress(OSError):
                os.unlink(probe)

    def read(self, name: str) -> tuple[bytes, Stored]:
        with self.open(name) as file:
            try:
                data = file.read()
                return data, _stored(name, len(data), google_crc32c.value(data), file.fileno())
            except OSError as error:
                raise_store_error(error, f"can't read {name} below {self._root}")

    def open(self, name: str) -> BinaryIO:
        try:
            return open(self._path(name), "rb")
        except _ABSENT as error:
            raise NotFound(f"no object {name} below {self._root}") from error
        except OSError as error:
            raise_store_error(error, f"can't read {name} below {self._root}")

    def write(self, name: str, data: bytes | BinaryIO) -> Stored:
        return self._put(name, data, check=lambda _: None)

    def create(self, name: str, data: bytes) -> Stored:
        def check(current: int | None) -> None:
            if current is not None:
                raise AlreadyExists(f"{name} below {self._root} already exists with different bytes")

        try:
            return self._put(name, data, check)
        except AlreadyExists:
            existing, stored = self.read(name)
            if existing != data:
                raise
            # Its writer may have been killed before it could do this.
            flush_folder(os.path.dirname(self._path(name)))
            return stored

    def replace(self, name: str, data: bytes, generation: int) -> Stored:
        def check(current: int | None) -> None:
            if current != generation:
                state = "missing" if current is None else f"at generation {current}"
                raise Changed(
                    f"can't replace {name} below {self._root}: it is {state}, not at generation {generation}."
                    " What to do: read it again"
                )

        return self._put(name, data, check)

    def publish(self, source: str, target: str) -> None:
        source_path, target_path = self._path(source), self._path(target)
        try:
            with self._locked(target):
                if os.path.isfile(source_path):
                    with open(source_path, "rb") as file:
                        self._set_generation(file, later_than=_generation(target_path))
                    make_folder(os.path.dirname(target_path))
                    os.replace(source_path, target_path)
                elif not os.path.isfile(target_path):
                    raise NotFound(f"can't publish below {self._root}: neither {source} nor {target} exists")
                flush_folder(os.path.dirname(target_path))
        except OSError as error:
            raise_store_error(error, f"can't publish {source} as {target} below {self._root}")

    def list(self, prefix: str, start: str = "") -> Iterator[str]:
        check_prefix(prefix)
        folder = prefix.rpartition("/")[0]
        try:
            yield from self._walk(f"{folder}/" if folder else "", prefix, start)
        except OSError as error:
            raise_store_error(error, f"can't list {prefix}* below {self._root}")

    def _walk(self, folder: str, prefix: str, start: str) -> Iterator[str]:
        """Yield the names below `folder` that `list` selects. `folder` is empty (the root) or ends with a slash."""
        try:
            with os.scandir(os.path.join(self._root, folder)) as entries:
                # A folder is sorted with its slash, so that `a-b` comes before `a/b`, as in the order of whole names.
                names = sorted(
                    f"{folder}{entry.name}/" if entry.is_dir() else f"{folder}{entry.name}"
                    for entry in entries
                    if is_name(entry.name)
                )
        except (FileNotFoundError, NotADirectoryError):
            return
        for name in names:
            if name.endswith("/"):
                if (name.startswith(prefix) or prefix.startswith(name)) and (name >= start or start.startswith(name)):
                    yield from self._walk(name, prefix, start)
            elif name.startswith(prefix) and name >= start:
                yield name

    def _put(self, name: str, data: bytes | BinaryIO, check: Callable[[int | None], None]) -> Stored:
        """Write an object unless `check` raises.

        Args:
            name: Name of the object.
            data: Bytes, or a seekable stream, which is read from its start.
            check: Called with the current generation, None for no object, while the name is locked.
        """
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
                    self._set_generation(file, later_than=current)
                    flush(file)
                    make_folder(os.path.dirname(path))
                    os.replace(hidden, path)
                    flush_folder(os.path.dirname(path))
                return _stored(name, size, checksum, file.fileno())
        except OSError as error:
            raise_store_error(error, f"can't write {name} below {self._root}")
        finally:
            # After a success the file has been renamed. After a failure, the first error is the one to report.
            with suppress(OSError):
                os.unlink(hidden)

    def _set_generation(self, file: BinaryIO, later_than: int | None) -> None:
        """Set the file's generation to the present time, or to the next possible one after `later_than`."""
        now, last = self._clock(), later_than or 0
        for tick in _CLOCK_TICKS:
            generation = max(now, last + tick)
            os.utime(file.fileno(), ns=(generation, generation))
            if os.fstat(file.fileno()).st_mtime_ns > last:
                return
        raise StoreError(
            f"objects can't be written below {self._root}: the file system stores no modification times."
            " What to do: choose a folder on another disk"
        )

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """Hold the lock for writing `name`, against all threads and processes. A process that dies releases it."""
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
    """Return the generation of the object at `path`, or None if there is no file, even if there is a folder."""
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_mtime_ns if stat.S_ISREG(status.st_mode) else None
