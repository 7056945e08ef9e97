"""An object store in a bucket of Google Cloud Storage."""

from __future__ import annotations

import base64
import io
import os
import re
import uuid
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, TypeVar

import google_crc32c
from google.api_core.retry import Retry
from google.cloud import storage
from google.cloud.storage.retry import DEFAULT_RETRY

from storage.objects.base import AlreadyExists, Changed, NotFound, Stored, StoreError
from storage.objects.gcs_errors import translate_errors
from storage.objects.names import check_name, check_prefix, is_name
from storage.objects.streams import CHUNK, RangeReader, measure

RETRY: Retry = DEFAULT_RETRY.with_delay(initial=0.5, maximum=30.0, multiplier=2.0).with_timeout(120.0)
"""Retry policy: 408, 429, 5xx and lost connections are retried. Other errors are raised at once.

The delay is 0.5 s on average, doubles with each retry up to 30 s, and has jitter. A call gives up after 120 s; its last
attempt may take up to TIMEOUT longer.
"""

TIMEOUT = 60.0
"""Seconds that one request may wait for a response."""

_ONE_TRY: dict[str, Any] = {"retry": None, "timeout": TIMEOUT}
"""Arguments that switch the client's own retries off, because `CloudStorage._run` retries."""

_BUCKET = re.compile(r"gs://(?P<bucket>[a-z0-9][a-z0-9._-]{1,220}[a-z0-9])(?:/(?P<prefix>.*))?")

_WRITE_ID = "written-by"
"""Metadata key for the random id of each `replace`."""

T = TypeVar("T")


class CloudStorage:
    """Object store in a Cloud Storage bucket, below a prefix if the URI has one. Relies on generation preconditions.

    An interrupted upload or download is retried from its start. The server checks the crc32c before an upload becomes an
    object, and the client checks it after a `read`.

    A stream from `open` is pinned to one generation and protected by TLS, but the crc32c of the whole is not checked.
    Reading from it raises NotFound if the object was replaced.

    Cloud Storage sustains one write a second to the same name. It responds to more with 429, which is retried.
    """

    def __init__(self, uri: str, client: storage.Client | None = None, retry: Retry = RETRY) -> None:
        """Create a store without accessing the network.

        Args:
            uri: gs://bucket[/prefix].
            client: Not pickled. If None, each process creates its own on first use, from STORAGE_EMULATOR_HOST or the
                default credentials.
            retry: Policy for the attempts of a call.

        Raises:
            StoreError: `uri` has another form, or its prefix is no valid object name.
        """
        match = _BUCKET.fullmatch(uri.rstrip("/"))
        if not match:
            raise StoreError(f"{uri!r} is no Cloud Storage bucket. What to do: give gs://bucket or gs://bucket/prefix")
        self._bucket_name = match["bucket"]
        self._prefix = f"{match['prefix']}/" if match["prefix"] else ""
        check_prefix(self._prefix)
        self._retry = retry
        self._client = client
        self._process = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_client": None}

    @property
    def uri(self) -> str:
        return f"gs://{self._bucket_name}/{self._prefix}".rstrip("/")

    def check_writable(self) -> None:
        """Write, overwrite, read and list one small hidden object, which is left in place."""
        probe = ".tmp/writable"
        self._upload(probe, b"")
        self._upload(probe, b"")
        self._download(probe)
        next(self.list("", start=probe), None)

    def read(self, name: str) -> tuple[bytes, Stored]:
        check_name(name)
        return self._download(name)

    def open(self, name: str) -> BinaryIO:
        check_name(name)
        stored = self._stat(name)
        if stored is None:
            raise NotFound(f"no object {self.uri}/{name}")
        source = RangeReader(stored.size, lambda first, last: self._download_range(stored, first, last))
        return io.BufferedReader(source, CHUNK)

    def write(self, name: str, data: bytes | BinaryIO) -> Stored:
        # Safe to retry without a precondition: the name has one writer, and each attempt writes the same bytes.
        check_name(name)
        return self._upload(name, data)

    def create(self, name: str, data: bytes) -> Stored:
        check_name(name)
        try:
            return self._upload(name, data, if_generation=0)
        except Changed:
            try:
                existing, stored = self._download(name)
            except NotFound:
                raise StoreError(
                    f"can't create {self.uri}/{name}: it existed when the upload was refused, and then did not exist."
                    " What to do: see whether a rule or a person deletes objects there, then run the command again"
                ) from None
            if existing == data:
                return stored
            raise AlreadyExists(f"{self.uri}/{name} already exists with different bytes") from None

    def replace(self, name: str, data: bytes, generation: int) -> Stored:
        """Replace an object as ObjectStore specifies.

        A refusal can be the response to a retry of an attempt that succeeded but whose response was lost. Equal bytes do
        not prove that, because two writers may write the same bytes. So each call stores a random id in the
        object's metadata, and a refusal counts as success if the object has this id.

        If yet another write replaces the object before this id is read, Changed is raised although this call's write
        took place. Therefore a caller that retries must be idempotent.
        """
        check_name(name)
        if generation <= 0:  # 0 would mean: only if it is absent.
            raise Changed(f"can't replace {self.uri}/{name}: no object has generation {generation}. What to do: read it again")
        write_id = uuid.uuid4().hex
        try:
            return self._upload(name, data, if_generation=generation, write_id=write_id)
        except (Changed, NotFound):
            blob = self._get_blob(name)
            if blob is not None and (blob.metadata or {}).get(_WRITE_ID) == write_id:
                return self._stored(blob)
            state = "missing" if blob is None else f"at generation {blob.generation}"
            raise Changed(
                f"can't replace {self.uri}/{name}: it is {state}, not at generation {generation}. What to do: read it again"
            ) from None

    def publish(self, source: str, target: str) -> None:
        """Publish an object as ObjectStore specifies. The source remains until a lifecycle rule deletes it.

        An existing target with the same bytes is not written again, so that a repeat disturbs no reader. A server that
        ignores preconditions writes it again.
        """
        check_name(source)
        check_name(target)
        try:
            self._rewrite(source, target, if_generation=0)
        except (NotFound, Changed):
            source_object, target_object = self._stat(source), self._stat(target)
            if source_object is None and target_object is None:
                raise NotFound(f"can't publish in {self.uri}: neither {source} nor {target} exists") from None
            if source_object and (
                target_object is None
                or (source_object.size, source_object.crc32c) != (target_object.size, target_object.crc32c)
            ):
                self._rewrite(source, target, if_generation=None)

    def list(self, prefix: str, start: str = "") -> Iterator[str]:
        check_prefix(prefix)
        pages = (
            self._bucket()
            .list_blobs(
                prefix=self._prefix + prefix,
                start_offset=self._prefix + start if start else None,
                fields="items(name),nextPageToken",
                retry=self._retry,
                timeout=TIMEOUT,
            )
            .pages
        )
        while page := self._run_once("list", f"{prefix}*", lambda: next(pages, None)):
            for blob in page:
                name = blob.name.removeprefix(self._prefix)
                # Skips placeholders of folders and hidden objects.
                if is_name(name):
                    yield name

    def _upload(self, name: str, data: bytes | BinaryIO, if_generation: int | None = None, write_id: str = "") -> Stored:
        source: BinaryIO = io.BytesIO(data) if isinstance(data, bytes) else data
        size, checksum = measure(source)

        def attempt() -> Stored:
            source.seek(0)
            blob = self._bucket().blob(self._prefix + name, chunk_size=CHUNK)
            if write_id:
                blob.metadata = {_WRITE_ID: write_id}
            blob.upload_from_file(
                source,
                size=size,
                content_type="application/octet-stream",
                if_generation_match=if_generation,
                checksum="crc32c",
                crc32c_checksum_value=base64.b64encode(checksum.to_bytes(4, "big")).decode(),
                **_ONE_TRY,
            )
            return self._stored(blob)

        stored = self._run("write", name, attempt)
        if (stored.size, stored.crc32c) != (size, checksum):
            raise StoreError(f"can't write {self.uri}/{name}: it was damaged in transit. What to do: run the command again")
        return stored

    def _download(self, name: str) -> tuple[bytes, Stored]:
        def attempt() -> tuple[bytes, Stored]:
            blob = self._bucket().blob(self._prefix + name)
            data = blob.download_as_bytes(checksum="crc32c", **_ONE_TRY)
            checksum = google_crc32c.value(data)
            return data, Stored(name, len(data), checksum, int(blob.generation))

        return self._run("read", name, attempt)

    def _download_range(self, stored: Stored, first: int, last: int) -> bytes:
        blob = self._bucket().blob(self._prefix + stored.name, generation=stored.generation)
        return self._run(
            "read", stored.name, lambda: bytes(blob.download_as_bytes(start=first, end=last, checksum=None, **_ONE_TRY))
        )

    def _stat(self, name: str) -> Stored | None:
        blob = self._get_blob(name)
        return None if blob is None else self._stored(blob)

    def _get_blob(self, name: str) -> storage.Blob | None:
        return self._run("look up", name, lambda: self._bucket().get_blob(self._prefix + name, **_ONE_TRY))

    def _rewrite(self, source: str, target: str, if_generation: int | None) -> None:
        bucket = self._bucket()
        old, new = bucket.blob(self._prefix + source), bucket.blob(self._prefix + target)

        def attempt() -> None:
            token, _, _ = new.rewrite(old, if_generation_match=if_generation, **_ONE_TRY)
            while token:  # A large object is copied in several requests.
                token, _, _ = new.rewrite(old, token=token, if_generation_match=if_generation, **_ONE_TRY)

        self._run("publish", f"{source} as {target}", attempt)

    def _bucket(self) -> storage.Bucket:
        # A forked process must not use the connections of its parent's client.
        if self._client is None or self._process != os.getpid():
            self._client, self._process = self._run_once("reach", "", lambda: storage.Client(project=None)), os.getpid()
        return self._client.bucket(self._bucket_name)

    def _run(self, action: str, name: str, attempt: Callable[[], T]) -> T:
        return self._run_once(action, name, self._retry(attempt))

    def _run_once(self, action: str, name: str, attempt: Callable[[], T]) -> T:
        with translate_errors(f"can't {action} {self.uri}/{name}".rstrip("/"), self._bucket_name):
            return attempt()

    def _stored(self, blob: storage.Blob) -> Stored:
        checksum = int.from_bytes(base64.b64decode(blob.crc32c), "big")
        return Stored(blob.name.removeprefix(self._prefix), int(blob.size), checksum, int(blob.generation))
