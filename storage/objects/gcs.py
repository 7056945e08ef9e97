"""An object store in Google Cloud Storage."""

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
from storage.objects.streams import CHUNK, Ranges, measure

RETRY: Retry = DEFAULT_RETRY.with_delay(initial=0.5, maximum=30.0, multiplier=2.0).with_timeout(120.0)
"""408, 429, 5xx and lost connections are tried again after 0.5 s on average, then twice as long each time, at most 30 s, with
jitter, for 120 s in all (the last try may take TIMEOUT more). Anything else fails at once."""

TIMEOUT = 60.0
"""Seconds that one request may stay without an answer."""

_ONE_TRY: dict[str, Any] = {"retry": None, "timeout": TIMEOUT}
"""For the client: `CloudStorage._run` is where a call is tried again."""

_BUCKET = re.compile(r"gs://(?P<bucket>[a-z0-9][a-z0-9._-]{1,220}[a-z0-9])(?:/(?P<prefix>.*))?")

_WRITER = "written-by"
"""The key of the metadata in which `replace` leaves its mark."""

T = TypeVar("T")


class CloudStorage:
    """Objects of one Cloud Storage bucket, below a prefix if the URI has one. Rests on generation preconditions of uploads.

    Each try of a call is a whole one: an upload or download that breaks off begins anew. crc32c is checked by the
    server before an upload becomes an object, and by the client after a `read`; a stream is pinned to one
    generation and carried by TLS, but not checked as a whole; NotFound in its midst says that the object was replaced.

    Cloud Storage writes one name at most once a second for long; beyond that it answers 429, which is tried again.
    """

    def __init__(self, uri: str, client: storage.Client | None = None, retry: Retry = RETRY) -> None:
        """`uri`: gs://bucket[/prefix], StoreError otherwise. `client`: not pickled; where it is missing, each process
        makes its own from the surroundings when it first needs one (STORAGE_EMULATOR_HOST, default credentials)."""
        match = _BUCKET.fullmatch(uri.rstrip("/"))
        if not match:
            raise StoreError(f"{uri!r} names no Cloud Storage bucket: give gs://bucket or gs://bucket/prefix")
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
        """Writes, overwrites, reads and lists one small hidden object, which stays."""
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
        stored = self._look(name)
        if stored is None:
            raise NotFound(f"no object {self.uri}/{name}")
        return io.BufferedReader(Ranges(stored.size, lambda first, last: self._download_range(stored, first, last)), CHUNK)

    def write(self, name: str, data: bytes | BinaryIO) -> Stored:
        # Safe to try again without a precondition: nobody else writes the name, and each try writes the same bytes.
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
                    f"{self.uri}/{name} can't be written: Cloud Storage says that it is there, and then that it is not."
                    " Does somebody delete objects there? Run it again: a repeat does no harm"
                ) from None
            if existing == data:
                return stored
            raise AlreadyExists(f"{self.uri}/{name} is there, with other bytes") from None

    def replace(self, name: str, data: bytes, generation: int) -> Stored:
        """As promised by ObjectStore. A refusal may answer the second try of a write whose first one succeeded.

        Equal bytes don't show that: two writers may well write the same. So each call leaves a mark of its own in the
        object's metadata, and a refusal counts as success where the mark is found. Where yet another write has
        replaced ours before we looked, Changed is raised though ours took place: what is done again must do no harm.
        """
        check_name(name)
        if generation <= 0:  # 0 would mean: only if it is absent.
            raise Changed(f"{self.uri}/{name} can't be at generation {generation}: read it again")
        mark = uuid.uuid4().hex
        try:
            return self._upload(name, data, if_generation=generation, mark=mark)
        except (Changed, NotFound):
            blob = self._get_blob(name)
            if blob is not None and (blob.metadata or {}).get(_WRITER) == mark:
                return self._stored(blob)
            state = "gone" if blob is None else f"at generation {blob.generation}"
            raise Changed(f"{self.uri}/{name} is {state}, no longer at {generation}: read it again") from None

    def publish(self, source: str, target: str) -> None:
        """As promised by ObjectStore. The source stays, for a lifecycle rule to delete. A target of the same bytes is left
        alone, so that a repeat disturbs no reader; on a server that ignores preconditions it is written again."""
        check_name(source)
        check_name(target)
        try:
            self._rewrite(source, target, if_generation=0)
        except (NotFound, Changed):
            source_object, target_object = self._look(source), self._look(target)
            if source_object is None and target_object is None:
                raise NotFound(f"neither {source} nor {target} is in {self.uri}: there is nothing to publish") from None
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
                # Placeholders of folders and hidden objects are none of ours.
                if is_name(name):
                    yield name

    def _upload(self, name: str, data: bytes | BinaryIO, if_generation: int | None = None, mark: str = "") -> Stored:
        source: BinaryIO = io.BytesIO(data) if isinstance(data, bytes) else data
        size, checksum = measure(source)

        def attempt() -> Stored:
            source.seek(0)
            blob = self._bucket().blob(self._prefix + name, chunk_size=CHUNK)
            if mark:
                blob.metadata = {_WRITER: mark}
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
            raise StoreError(f"{self.uri}/{name} was damaged on its way to the store: write it again")
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

    def _look(self, name: str) -> Stored | None:
        blob = self._get_blob(name)
        return None if blob is None else self._stored(blob)

    def _get_blob(self, name: str) -> storage.Blob | None:
        return self._run("look at", name, lambda: self._bucket().get_blob(self._prefix + name, **_ONE_TRY))

    def _rewrite(self, source: str, target: str, if_generation: int | None) -> None:
        bucket = self._bucket()
        old, new = bucket.blob(self._prefix + source), bucket.blob(self._prefix + target)

        def attempt() -> None:
            token, _, _ = new.rewrite(old, if_generation_match=if_generation, **_ONE_TRY)
            while token:  # Large objects are copied in several requests.
                token, _, _ = new.rewrite(old, token=token, if_generation_match=if_generation, **_ONE_TRY)

        self._run("publish", f"{source} as {target}", attempt)

    def _bucket(self) -> storage.Bucket:
        # A client's connections can't be shared with a forked process.
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
