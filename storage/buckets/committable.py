"""Committables: what one attempt at some work adds to a bucket.

They are united by their ids, so adding the same one again changes nothing, and their order does not matter: retries, restarts,
backfills and late panes can repeat without harm.
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
    """One Avro file of a bucket, and beside it its index: the sorted 16-byte hashes of its ids.

    name: without a folder, ends in .avro, unique to the attempt that wrote it; size: bytes; crc32c: 0 to 2^32 - 1;
    ids: the tally of its ids, whose count is the number of its rows.
    """

    name: str
    shard: Shard
    size: int
    crc32c: int
    index_crc32c: int
    ids: Tally

    @property
    def index_name(self) -> str:
        """The index's file name: it lies beside the data file."""
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
            raise ValueError("a file's name is not one")
        return cls(name, shard, read_count(value["size"]), read_count(value["crc32c"]), read_count(value["index_crc32c"]), ids)


@dataclass(frozen=True)
class Committable:
    """What one attempt at some work adds to a bucket: counts, files, or nothing but the wish to be looked at.

    id: made before the committable crosses a shuffle, so that a repeat is known as one; packs: the names of the packs whose
    messages may be acknowledged once it is committed; failure: why other packs could not be written, empty where all were. No
    manifest keeps these two. conflicts: what it adds to the hour's dead letters, after it is in the manifest itself.
    elsewhere: files that name the ids it dropped because another hour holds them.
    """

    id: str
    counters: Counters = field(default_factory=dict)
    reasons: Reasons = field(default_factory=dict)
    data_files: tuple[DataFile, ...] = ()
    packs: tuple[str, ...] = ()
    conflicts: Committable | None = None
    failure: str = ""
    elsewhere: tuple[Elsewhere, ...] = ()

    def to_json(self) -> bytes:
        more = {"packs": self.packs, "failure": self.failure}
        return json.dumps({**committable_to_json(self), **more}, sort_keys=True).encode()

    @classmethod
    def from_json(cls, data: bytes | str) -> Committable:
        value = json.loads(data)
        return replace(committable_from_json(value), packs=tuple(value["packs"]), failure=value["failure"])

    @property
    def is_empty(self) -> bool:
        """Whether it changes nothing."""
        return not (self.counters or self.data_files)


CLOSE_CHECK = Committable("")
"""Adds nothing: asks that a bucket be looked at, so that it closes though no event came."""


def combine(committables: Iterable[Committable]) -> Committable:
    """One committable that adds what the given ones add, each id once, under an id that depends on theirs alone."""
    given = list(committables)
    each = {one.id: one for one in given if not one.is_empty}
    failure = max((one.failure for one in given), default="")
    if not each:
        return replace(CLOSE_CHECK, failure=failure)
    counters: Counters = {}
    reasons: Reasons = {}
    data_files: list[DataFile] = []
    packs: list[str] = []
    elsewhere: list[Elsewhere] = []
    for key in sorted(each):
        counters = add_counters(counters, each[key].counters)
        reasons = add_reasons(reasons, each[key].reasons)
        data_files.extend(each[key].data_files)
        packs.extend(each[key].packs)
        elsewhere.extend(each[key].elsewhere)
    conflicts = combine(one.conflicts for one in each.values() if one.conflicts)
    refused = None if conflicts.is_empty else conflicts
    unique = sha256("\n".join(sorted(each)).encode()).hexdigest()[:32]
    return Committable(unique, counters, reasons, tuple(data_files), tuple(packs), refused, failure, tuple(elsewhere))


def committable_to_json(committable: Committable) -> dict[str, object]:
    """What a manifest keeps of a committable."""
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
    """Reads what `committable_to_json` gave. ValueError, TypeError, KeyError or AttributeError where it is something else."""
    data_files = tuple(DataFile.from_json(data_file) for data_file in value["data_files"])
    elsewhere = tuple(Elsewhere.from_json(file) for file in value.get("elsewhere", ()))
    counters, reasons = read_counters(value["counters"]), read_reasons(value["reasons"])
    conflicts = committable_from_json(value["conflicts"]) if "conflicts" in value else None
    return Committable(read_text(value["id"]), counters, reasons, data_files, conflicts=conflicts, elsewhere=elsewhere)
