"""Byte streams: the measuring of a source before its upload, and a stream over ranged downloads."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, BinaryIO

import google_crc32c

CHUNK = 8 * 1024 * 1024
"""Bytes of a stream held in memory. Uploads to Cloud Storage need a multiple of 256 KiB."""


def measure(source: BinaryIO) -> tuple[int, int]:
    """Return the size in bytes and the crc32c of a seekable stream, read from its start."""
    size, checksum = 0, 0
    source.seek(0)
    while chunk := source.read(CHUNK):
        size, checksum = size + len(chunk), google_crc32c.extend(checksum, chunk)
    return size, checksum


class RangeReader(io.RawIOBase):
    """A read-only seekable stream that downloads byte ranges on demand."""

    def __init__(self, size: int, fetch: Callable[[int, int], bytes]) -> None:
        """Create a stream at position 0.

        Args:
            size: Length of the stream in bytes.
            fetch: Returns the bytes from a first to a last position, both included.
        """
        self._size, self._fetch, self._position = size, fetch, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence])
        return self._position

    def readinto(self, buffer: Any) -> int:
        data = self._read_to(self._position + len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        # The inherited method reads 8 KiB at a time, each with a request of its own.
        return self._read_to(self._size)

    def _read_to(self, end: int) -> bytes:
        end = min(end, self._size)
        if self._position >= end:
            return b""
        data = self._fetch(self._position, end - 1)
        self._position += len(data)
        return data
