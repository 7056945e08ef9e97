"""Contributions: what one attempt at some work adds to a bucket.

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
from schemas.counters import Books, Reasons, add_books, add_reasons, books_to_json, read_books
from schemas.fingerprints import Tally
from schemas.json_fields import read_count, read_text
from schemas.shards import Shard
from storage.buckets.duplicate_refs import Elsewhere


@dataclass(frozen=True)
class Part:
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
        """The index's file name: it lies beside the part."""
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
    def from_json(cls, value: Mapping[str, Any]) -> Part:
        ids = Tally.from_json({"count": value["rows"], "fingerprint": value["fingerprint"]})
        name, shard = read_text(value["name"]), Shard.parse(value["shard"])
        if "/" in name or not name.endswith(".avro"):
            raise ValueError("a file's name is not one")
        return cls(name, shard, read_count(value["size"]), read_count(value["crc32c"]), read_count(value["index_crc32c"]), ids)


@dataclass(frozen=True)
class Contribution:
    """What one attempt at some work adds to a bucket: counts, files, or nothing but the wish to be looked at.

    id: made before the contribution crosses a shuffle, so that a repeat is known as one; packs: the names of the packs whose
    messages may be acknowledged once it is committed; trouble: why other packs could not be written, empty where all were. No
    receipt keeps these two. conflicts: what it adds to the hour's dead letters, after it is in the receipt itself.
    elsewhere: files that name the ids it dropped because another hour holds them.
    """

    id: str
    books: Books = field(default_factory=dict)
    reasons: Reasons = field(default_factory=dict)
    parts: tuple[Part, ...] = ()
    packs: tuple[str, ...] = ()
    conflicts: Contribution | None = None
    trouble: str = ""
    elsewhere: tuple[Elsewhere, ...] = ()

    def to_json(self) -> bytes:
        more = {"packs": self.packs, "trouble": self.trouble}
        return json.dumps({**work_to_json(self), **more}, sort_keys=True).encode()

    @classmethod
    def from_json(cls, data: bytes | str) -> Contribution:
        value = json.loads(data)
        return replace(work_from_json(value), packs=tuple(value["packs"]), trouble=value["trouble"])

    @property
    def is_empty(self) -> bool:
        """Whether it changes nothing."""
        return not (self.books or self.parts)


LOOK = Contribution("")
"""Adds nothing: asks that a bucket be looked at, so that it closes though no event came."""


def combine(contributions: Iterable[Contribution]) -> Contribution:
    """One contribution that adds what the given ones add, each id once, under an id that depends on theirs alone."""
    given = list(contributions)
    each = {one.id: one for one in given if not one.is_empty}
    trouble = max((one.trouble for one in given), default="")
    if not each:
        return replace(LOOK, trouble=trouble)
    books: Books = {}
    reasons: Reasons = {}
    parts: list[Part] = []
    packs: list[str] = []
    elsewhere: list[Elsewhere] = []
    for key in sorted(each):
        books = add_books(books, each[key].books)
        reasons = add_reasons(reasons, each[key].reasons)
        parts.extend(each[key].parts)
        packs.extend(each[key].packs)
        elsewhere.extend(each[key].elsewhere)
    conflicts = combine(one.conflicts for one in each.values() if one.conflicts)
    refused = None if conflicts.is_empty else conflicts
    unique = sha256("\n".join(sorted(each)).encode()).hexdigest()[:32]
    return Contribution(unique, books, reasons, tuple(parts), tuple(packs), refused, trouble, tuple(elsewhere))


def work_to_json(work: Contribution) -> dict[str, object]:
    """What a receipt keeps of a contribution."""
    parts = [part.to_json() for part in work.parts]
    value: dict[str, object] = {"id": work.id, "books": books_to_json(work.books), "reasons": work.reasons, "parts": parts}
    if work.elsewhere:
        value["elsewhere"] = [file.to_json() for file in work.elsewhere]
    if work.conflicts:
        value["conflicts"] = work_to_json(work.conflicts)
    return value


def work_from_json(value: Mapping[str, Any]) -> Contribution:
    """Reads what `work_to_json` gave. ValueError, TypeError, KeyError or AttributeError where it is something else."""
    parts = tuple(Part.from_json(part) for part in value["parts"])
    elsewhere = tuple(Elsewhere.from_json(file) for file in value.get("elsewhere", ()))
    books, reasons = read_books(value["books"]), read_reasons(value["reasons"])
    conflicts = work_from_json(value["conflicts"]) if "conflicts" in value else None
    return Contribution(read_text(value["id"]), books, reasons, parts, conflicts=conflicts, elsewhere=elsewhere)
