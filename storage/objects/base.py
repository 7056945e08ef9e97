"""Object store: files, manifests and markers by name. One interface, a directory or Cloud Storage behind it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Protocol


class StoreError(Exception):
    """The store refused, or could not be reached after bounded retries. The message says what, where, and what to do."""


class NotFound(StoreError):
    """No object has this name."""


class Damaged(StoreError):
    """An object is there, and is not what was committed. Restore it from a copy."""


class AlreadyExists(StoreError):
    """`create` met an object of this name, with other bytes than those given."""


class Changed(StoreError):
    """`replace` met another generation than the expected one."""


@dataclass(frozen=True)
class Stored:
    """An object as the store knows it. generation: another after each write of the name; crc32c: 0 to 2^32 - 1."""

    name: str
    size: int
    crc32c: int
    generation: int


class ObjectStore(Protocol):
    """Objects by name (`a/b/c`, relative to the root). Safe for use by many threads and processes; can be pickled.

    Reads see every finished write at once. A write is seen whole or not at all, and when it has returned
    the object survives the process and the machine.
    """

    @property
    def uri(self) -> str:
        """The root: an absolute path, or gs://bucket[/prefix], with no slash at the end."""

    def check_writable(self) -> None:
        """Raises StoreError, saying what to do, when objects can't be written under the root (made if it is missing)."""

    def read(self, name: str) -> tuple[bytes, Stored]:
        """The object's bytes, and what the store knows of exactly these bytes. Raises NotFound."""

    def open(self, name: str) -> BinaryIO:
        """The object as a stream to read, for what may be large. Raises NotFound."""

    def write(self, name: str, data: bytes | BinaryIO) -> Stored:
        """Writes bytes, or a seekable stream from its start, under a name that nobody else writes. Replaces what is there."""

    def create(self, name: str, data: bytes) -> Stored:
        """Writes only if no object has this name.

        Finding the very same bytes there counts as success: it is this call's own write, whose answer was lost.
        Raises AlreadyExists when other bytes are there.
        """

    def replace(self, name: str, data: bytes, generation: int) -> Stored:
        """Writes only if the object's generation is still `generation`. Raises Changed otherwise, also when it is gone."""

    def publish(self, source: str, target: str) -> None:
        """Puts the object `source` under the name `target`, whole or not at all; `source` may be gone afterwards.

        Repeatable: where `source` is gone and `target` is there, nothing is done. Raises NotFound when neither is there.
        """

    def list(self, prefix: str, start: str = "") -> Iterator[str]:
        """The names of all objects that begin with `prefix` and are not below `start`, in their order (by code point)."""
