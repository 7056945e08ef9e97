"""Durable files and folders on a local disk, and operating system errors as StoreError."""

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
    errno.EROFS: "choose a folder on a writable disk",
    errno.ENOTDIR: "move the file that has the name of a needed folder, or choose another folder",
    errno.EEXIST: "move the file that has the name of a needed folder, or choose another folder",
    errno.EISDIR: "choose another name: a folder has the name of the object",
    errno.ENAMETOOLONG: "choose a folder with a shorter path",
    errno.EMFILE: "allow more open files (ulimit -n)",
    errno.ENFILE: "allow more open files on this machine",
}


def make_folder(path: str) -> None:
    """Create a folder and its parents. Each is fsynced before anything is written below it."""
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
    """fsync the file, so that the bytes written so far survive a crash of the machine."""
    file.flush()
    os.fsync(file.fileno())


def flush_folder(path: str) -> None:
    """fsync the folder, so that new names in it survive a crash of the machine."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def raise_store_error(error: OSError, failure: str) -> NoReturn:
    """Raise `error` as a StoreError whose message contains `failure`, the cause and the remedy."""
    path = f" ({error.filename})" if error.filename else ""
    hint = _HINTS.get(error.errno or 0, "check the disk, then run the command again")
    raise StoreError(f"{failure}: {error.strerror or error}{path}. What to do: {hint}") from error
