"""Order: commits of one stream, in whatever buckets and by whatever process, come one after the other.

An event's second copy may belong to another hour than its first, and so to another bucket. Who adds files to a bucket has to
know what every other bucket of the stream has got by then. For that it takes a turn: the stream's turn object is replaced on
its generation, so of two who read the same turn one begins again. A turn carries the manifest that it is for. Whoever reads a
turn first creates that manifest, if its taker was stopped before it could, so the manifests of earlier turns are there to read.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from schemas.buckets import Bucket
from storage.buckets.manifest import Manifest, ManifestError
from storage.objects.base import AlreadyExists, Changed, NotFound, ObjectStore

REMEMBERED = 500
"""Turns that a turn object names. Who has known the stream for longer than that reads its manifests anew."""


@dataclass(frozen=True)
class Turn:
    """The last turn that was taken. number: 0 before the first; recent: the buckets of the last turns, its own at the end."""

    number: int = 0
    recent: tuple[str, ...] = ()
    generation: int = 0
    pending: dict[str, Any] | None = field(default=None, repr=False)

    def buckets_since(self, number: int) -> list[Bucket] | None:
        """The buckets of the turns after `number`; None where not all of them are known any more."""
        missed = self.number - number
        if not 0 <= missed <= len(self.recent):
            return None
        return [Bucket.from_key(key) for key in self.recent[len(self.recent) - missed :]]


def last_turn(store: ObjectStore, stream: str) -> Turn:
    """The last turn of a stream, whose manifest is created. Raises StoreError or ManifestError."""
    name = _name(stream)
    try:
        data, stored = store.read(name)
    except NotFound:
        return Turn()
    try:
        value = json.loads(data)
        turn = Turn(value["number"], tuple(value["recent"]), stored.generation, value["pending"])
    except (ValueError, KeyError, TypeError) as error:
        raise ManifestError(
            f"{name} can't be read: {error!r}. What to do: stop all jobs of the stream, then delete this object;"
            " it only orders concurrent commits"
        ) from None
    if turn.pending:
        _create(store, turn.pending)
        # Its taker may be gone, and nobody is to create it again, should the bucket be deleted.
        with suppress(Changed):
            turn = _write(store, stream, replace(turn, pending=None))
    return turn


def take_turn(store: ObjectStore, last: Turn, manifest: Manifest) -> bool:
    """Creates the manifest, if nobody has taken a turn of its stream since `last`, nor created this version of it."""
    name = manifest.bucket.version_name(manifest.version)
    pending = {"name": name, "manifest": manifest.to_json().decode()}
    recent = (*last.recent, manifest.bucket.key)[-REMEMBERED:]
    try:
        taken = _write(store, manifest.bucket.stream, Turn(last.number + 1, recent, last.generation, pending))
    except (AlreadyExists, Changed):
        return False
    created = _create(store, pending)
    # As above. Who has read the turn meanwhile has seen to it.
    with suppress(Changed):
        _write(store, manifest.bucket.stream, Turn(taken.number, recent, taken.generation, None))
    return created


def _create(store: ObjectStore, pending: dict[str, Any]) -> bool:
    try:
        store.create(pending["name"], pending["manifest"].encode())
    except AlreadyExists:
        # The bucket was closed meanwhile, which takes no turn. Whose turn this was tries again.
        return False
    return True


def _write(store: ObjectStore, stream: str, turn: Turn) -> Turn:
    data = json.dumps({"number": turn.number, "recent": turn.recent, "pending": turn.pending}).encode()
    name = _name(stream)
    stored = store.replace(name, data, turn.generation) if turn.generation else store.create(name, data)
    return Turn(turn.number, turn.recent, stored.generation, turn.pending)


def _name(stream: str) -> str:
    return f"turns/{stream}.json"
