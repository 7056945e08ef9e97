"""What a directory needs of the operating system: folders and files that survive the machine, and errors in plain words."""

from __future__ import annotations

import errno
import os
from typing import BinaryIO, NoReturn

from storage.objects.base import StoreError

_HINTS = {
    errno.ENOSPC: "free some space, or choose a folder on another disk",
    errno.EDQUOT: "free some space, or have the quota raised",
    errno.EACCES: "allow this user to read and write there, or choose another folder",
    errno.EPERM: "allow this user to read and write there, or choose another folder",
    errno.EROFS: "choose a folder on a disk that can be written",
    errno.ENOTDIR: "a file stands where a folder is needed: move it away, or choose another folder",
    errno.EEXIST: "a file stands where a folder is needed: move it away, or choose another folder",
    errno.EISDIR: "a folder stands where the object should go: choose another name",
    errno.ENAMETOOLONG: "choose a folder with a shorter path",
    errno.EMFILE: "allow more open files (ulimit -n)",
    errno.ENFILE: "allow more open files on this machine",
}


def make_folder(path: str) -> None:
    """Makes the folder and those above it, each of them on the disk before anything is written below."""
    if os.path.isdir(path):
        return
    make_folder(os.path.dirname(path))
    try:
        os.mkdir(path)
    except FileExistsError:
        if not os.path.isdir(path):
            raise
    flush_folder(os.path.dirname(path))


def flush(file: BinaryIO) -> None:
    """Only then do the bytes written so far survive the machine."""
    file.flush()
    os.fsync(file.fileno())


def flush_folder(path: str) -> None:
    """Only then do the names in it survive the machine."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def explain(error: OSError, what: str) -> NoReturn:
    """Raises the StoreError that says `what` went wrong, why, and what to do."""
    where = f" ({error.filename})" if error.filename else ""
    hint = _HINTS.get(error.errno or 0, "see to the disk, then run this again")
    raise StoreError(f"{what}: {error.strerror or error}{where}. What to do: {hint}") from error
