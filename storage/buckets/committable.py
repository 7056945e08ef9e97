"""Committables: the data files and counters that one writer adds to a bucket.

A bucket is the union of its committables by id. So adding one again changes nothing, and their order does not matter. This
makes retries, restarts, backfills and late panes idempotent.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

from schemas.audit_reports import read_reasons
from schemas.counters import Counters, Reasons, add_counters, add_reasons, counters_to_json, read_counters
from schemas.fingerprints import Tally
from schemas.json_fields import read_count, read_text
from schemas.shards import Shard
from storage.buckets.duplicate_refs import Elsewhere


@dataclass(frozen=True)
class DataFile:
    """An Avro file of a bucket. Its id index (`storage.buckets.id_index`) is stored in the same folder."""

    name: str
    """File name without a folder. Ends in .avro, and is unique to the attempt that wrote the file."""
    shard: Shard
    size: int
    """Bytes of the Avro file."""
    crc32c: int
    """Checksum of the Avro file, 0 to 2^32 - 1."""
    index_crc32c: int
    """Checksum of the index, 0 to 2^32 - 1."""
    ids: Tally
    """Tally of the event ids. Its count is the number of rows."""

    @property
    def index_name(self) -> str:
        """File name of the index, without a folder."""
        return self.name.removesuffix(".avro") + ".ids"

    def to_json(self) -> dict[str, object]:
        return {
            "name": self.name,
            "shard": str(self.shard),
            "rows": self.ids.count,
            "size": self.size,
            "crc32c": self.crc32c,
            "index": self.index_name,
            "index_crc32c": self.index_crc32c,
            "fingerprint": self.ids.fingerprint,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> DataFile:
        ids = Tally.from_json({"count": value["rows"], "fingerprint": value["fingerprint"]})
        name, shard = read_text(value["name"]), Shard.parse(value["shard"])
        if "/" in name or not name.endswith(".avro"):
            raise ValueError("the name of a data file contains a slash or does not end in .avro")
        return cls(name, shard, read_count(value["size"]), read_count(value["crc32c"]), read_count(value["index_crc32c"]), ids)


@dataclass(frozen=True)
class Committable:
    """The data files and counters that one writer adds to a bucket. An empty one requests a close check only."""

    id: str
    """Assigned before the committable crosses a shuffle, so that a repeat has the same id."""
    counters: Counters = field(default_factory=dict)
    reasons: Reasons = field(default_factory=dict)
    data_files: tuple[DataFile, ...] = ()
    packs: tuple[str, ...] = ()
    """Names of the packs whose messages may be acknowledged after the commit. Not stored in manifests."""
    conflicts: Committable | None = None
    """Conflicting events, to be added to the dead letters of the hour after this committable is in a manifest."""
    failure: str = ""
    """The error because of which other packs could not be written; empty if all were. Not stored in manifests."""
    elsewhere: tuple[Elsewhere, ...] = ()
    """Files that list the ids that were dropped because another hour contains them."""

    def to_json(self) -> bytes:
        """Serialize all fields, including those that manifests don't store."""
        unstored = {"packs": self.packs, "failure": self.failure}
        return json.dumps({**committable_to_json(self), **unstored}, sort_keys=True).encode()

    @classmethod
    def from_json(cls, data: bytes | str) -> Committable:
        """Parse the result of `to_json`."""
        value = json.loads(data)
        return replace(committable_from_json(value), packs=tuple(value["packs"]), failure=value["failure"])

    @property
    def is_empty(self) -> bool:
        """Whether adding the committable to a bucket changes nothing."""
        return not (self.counters or self.data_files)


CLOSE_CHECK = Committable("")
"""Adds nothing to a bucket. It requests a close check, so that a bucket closes even if it gets no event."""


def combine(committables: Iterable[Committable]) -> Committable:
    """Combine committables into one that adds all that they add. Committables with the same id are added once.

    The id of the result depends only on the ids of the non-empty committables.
    """
    parts = list(committables)
    by_id = {part.id: part for part in parts if not part.is_empty}
    failure = max((part.failure for part in parts), default="")
    if not by_id:
        return replace(CLOSE_CHECK, failure=failure)
    counters: Counters = {}
    reasons: Reasons = {}
    data_files: list[DataFile] = []
    packs: list[str] = []
    elsewhere: list[Elsewhere] = []
    for _, part in sorted(by_id.items()):
        counters = add_counters(counters, part.counters)
        reasons = add_reasons(reasons, part.reasons)
        data_files.extend(part.data_files)
        packs.extend(part.packs)
        elsewhere.extend(part.elsewhere)
    combined = combine(part.conflicts for part in by_id.values() if part.conflicts)
    conflicts = None if combined.is_empty else combined
    unique = sha256("\n".join(sorted(by_id)).encode()).hexdigest()[:32]
    return Committable(unique, counters, reasons, tuple(data_files), tuple(packs), conflicts, failure, tuple(elsewhere))


def committable_to_json(committable: Committable) -> dict[str, object]:
    """Return the fields of a committable that manifests store, as JSON values."""
    data_files = [data_file.to_json() for data_file in committable.data_files]
    value: dict[str, object] = {
        "id": committable.id,
        "counters": counters_to_json(committable.counters),
        "reasons": committable.reasons,
        "data_files": data_files,
    }
    if committable.elsewhere:
        value["elsewhere"] = [file.to_json() for file in committable.elsewhere]
    if committable.conflicts:
        value["conflicts"] = committable_to_json(committable.conflicts)
    return value


def committable_from_json(value: Mapping[str, Any]) -> Committable:
    """Parse the result of `committable_to_json`.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: `value` is something else.
    """
    data_files = tuple(DataFile.from_json(data_file) for data_file in value["data_files"])
    elsewhere = tuple(Elsewhere.from_json(file) for file in value.get("elsewhere", ()))
    counters, reasons = read_counters(value["counters"]), read_reasons(value["reasons"])
    conflicts = committable_from_json(value["conflicts"]) if "conflicts" in value else None
    return Committable(read_text(value["id"]), counters, reasons, data_files, conflicts=conflicts, elsewhere=elsewhere)
