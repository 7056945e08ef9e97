"""Versions of manifests: which one readers see, which is the newest, and how the newest comes to be seen.

The versions of a manifest are objects that are created only if absent. Only what a version lists is moved from staging into the
bucket's folder, so the folder never shows a file of a lost attempt. `_RECEIPT.json` and `_SUCCESS` follow the files. Whoever
looks at a bucket finishes what a crash has left undone there.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from google.api_core.retry import exponential_sleep_generator

from schemas.buckets import STAGING, Bucket
from storage.buckets.manifest import Manifest, ManifestError
from storage.objects.base import AlreadyExists, Changed, Damaged, NotFound, ObjectStore, StoreError

DAMAGE = (ManifestError, Damaged, NotFound)
"""What says that objects of one bucket are broken or gone. Other buckets are concerned only as far as they have to ask it."""

MAX_RACES = 100
"""So many times in a row somebody else may write a bucket's objects first; then something is wrong."""

FIRST_PAUSE, LONGEST_PAUSE = 0.01, 1.0
"""Seconds between them: a bound that doubles, and the pause drawn below it."""


def races(bucket: Bucket) -> Iterator[None]:
    """Goes on for as long as it makes sense to try what somebody else was first to do, with pauses. Then StoreError."""
    pauses = exponential_sleep_generator(FIRST_PAUSE, LONGEST_PAUSE)
    for _ in range(MAX_RACES):
        yield
        time.sleep(next(pauses))
    raise StoreError(
        f"{bucket.folder}: gave up after {MAX_RACES} concurrent-write conflicts."
        " What to do: check whether another job is stuck in a loop, then run the command again"
    )


def shown_receipt(store: ObjectStore, bucket: Bucket) -> Manifest:
    """What readers see: the manifest in `_RECEIPT.json`, whose files are all in place; version 0 where there is none."""
    return _shown(store, bucket)[0]


def latest_manifest(store: ObjectStore, bucket: Bucket) -> Manifest:
    """The newest committed version, which a crash may have left ahead of `_RECEIPT.json`; version 0 where there is none."""
    return _newest(store, shown_receipt(store, bucket))


def finished_receipt(store: ObjectStore, bucket: Bucket) -> Manifest:
    """The newest committed version, with its files in place."""
    shown = shown_receipt(store, bucket)
    newest = _newest(store, shown)
    if newest.version != shown.version:
        publish_manifest(store, newest)
    return newest


def publish_manifest(store: ObjectStore, manifest: Manifest) -> None:
    """Moves the manifest's files into place, then shows the manifest, then marks the bucket if it is closed. Repeatable."""
    bucket = manifest.bucket
    for _ in races(bucket):
        shown, generation = _shown(store, bucket)
        if shown.version >= manifest.version:
            break
        in_place = {data_file.name for data_file in shown.data_files} | {file.name for file in shown.elsewhere}
        for file in manifest.elsewhere:
            if file.name not in in_place:
                store.publish(f"{STAGING}/{file.name}", f"{bucket.folder}/{file.name}")
        for data_file in manifest.data_files:
            if data_file.name not in in_place:
                # The index first: a file without one would be read by people and not by us.
                store.publish(f"{STAGING}/{data_file.index_name}", f"{bucket.folder}/{data_file.index_name}")
                store.publish(f"{STAGING}/{data_file.name}", f"{bucket.folder}/{data_file.name}")
        try:
            if generation:
                store.replace(bucket.manifest_name, manifest.to_json(), generation)
            else:
                store.create(bucket.manifest_name, manifest.to_json())
            break
        except (AlreadyExists, Changed):
            pass
    if manifest.closed:
        store.create(bucket.success_name, b"")


def _shown(store: ObjectStore, bucket: Bucket) -> tuple[Manifest, int]:
    try:
        data, stored = store.read(bucket.manifest_name)
    except NotFound:
        return Manifest(bucket), 0
    return _read(data, bucket.manifest_name, bucket), stored.generation


def _newest(store: ObjectStore, manifest: Manifest) -> Manifest:
    while True:
        name = manifest.bucket.version_name(manifest.version + 1)
        try:
            data, _ = store.read(name)
        except NotFound:
            return manifest
        manifest = _read(data, name, manifest.bucket)


def _read(data: bytes, name: str, bucket: Bucket) -> Manifest:
    manifest = Manifest.from_json(data, name)
    if manifest.bucket != bucket:
        raise ManifestError(f"{name} is another bucket's manifest. What to do: restore the right one from a copy")
    return manifest
