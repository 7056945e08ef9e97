"""Streams of bytes: measured before they are written, and read in ranges."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, BinaryIO

import google_crc32c

CHUNK = 8 * 1024 * 1024
"""Bytes of a stream held in memory. Uploads to Cloud Storage need a multiple of 256 KiB."""


def measure(source: BinaryIO) -> tuple[int, int]:
    """The size and crc32c of a seekable stream, from its start."""
    size, checksum = 0, 0
    source.seek(0)
    while chunk := source.read(CHUNK):
        size, checksum = size + len(chunk), google_crc32c.extend(checksum, chunk)
    return size, checksum


class Ranges(io.RawIOBase):
    """A stream of `size` bytes, of which `fetch(first, last)` gets those from `first` to `last`, both included."""

    def __init__(self, size: int, fetch: Callable[[int, int], bytes]) -> None:
        self._size, self._fetch, self._at = size, fetch, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence])
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = self._read_to(self._at + len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        # The inherited one asks for 8 KiB at a time: a request each.
        return self._read_to(self._size)

    def _read_to(self, end: int) -> bytes:
        end = min(end, self._size)
        if self._at >= end:
            return b""
        data = self._fetch(self._at, end - 1)
        self._at += len(data)
        return data
