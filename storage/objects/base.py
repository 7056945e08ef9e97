"""The interface of object stores, which hold data files, manifests and markers by name.

`storage.objects.local` implements it on a local directory, `storage.objects.gcs` on Cloud Storage.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from schemas.errors import EventDeliveryError


class StoreError(EventDeliveryError):
    """A store refused a call, or could not be reached within a bounded number of retries.

    The message names the object, the cause and the remedy.
    """


class NotFound(StoreError):
    """No object has this name."""


class Damaged(StoreError):
    """An object exists, but its bytes are not those that were committed. It has to be restored from a copy."""


class AlreadyExists(StoreError):
    """`create` found an object of this name with different bytes."""


class Changed(StoreError):
    """`replace` found another generation than the expected one."""


@dataclass(frozen=True)
class Stored:
    """Metadata of a stored object."""

    name: str
    size: int
    """Bytes."""
    crc32c: int
    """Checksum of the bytes, 0 to 2^32 - 1."""
    generation: int
    """A number that differs after each write of the name."""


class ObjectStore(Protocol):
    """Objects by name (`a/b/c`, relative to the root). Thread-safe, safe for concurrent processes, and picklable.

    Reads are strongly consistent: they see every finished write at once. A write is atomic. When it has returned, the
    object survives a crash of the process and of the machine.
    """

    @property
    def uri(self) -> str:
        """The root: an absolute path, or gs://bucket[/prefix], without a slash at the end."""

    def check_writable(self) -> None:
        """Check that objects can be written under the root, which is created if it is missing.

        Raises:
            StoreError: They can't be. The message names the remedy.
        """

    def read(self, name: str) -> tuple[bytes, Stored]:
        """Return the bytes of an object, and the metadata of exactly these bytes. Raise NotFound if it is missing."""

    def open(self, name: str) -> BinaryIO:
        """Open an object for reading as a stream, for objects that may be large. Raise NotFound if it is missing."""

    def write(self, name: str, data: bytes | BinaryIO) -> Stored:
        """Write bytes, or a seekable stream from its start, and replace any existing object.

        The caller must be the only writer of this name.
        """

    def create(self, name: str, data: bytes) -> Stored:
        """Write an object only if none has this name.

        An existing object with the same bytes counts as success, because it can be the result of this very call: the
        response to an earlier attempt may have been lost.

        Raises:
            AlreadyExists: An object of this name has different bytes.
        """

    def replace(self, name: str, data: bytes, generation: int) -> Stored:
        """Overwrite an object only if its generation is still `generation`.

        Raises:
            Changed: The object has another generation, or is missing.
        """

    def publish(self, source: str, target: str) -> None:
        """Move the object `source` to the name `target` atomically. `source` may remain.

        Idempotent: if `source` is missing and `target` exists, nothing is done.

        Raises:
            NotFound: Neither of the two exists.
        """

    def list(self, prefix: str, start: str = "") -> Iterator[str]:
        """Yield, by code point order, all names that begin with `prefix` and are not less than `start`."""
