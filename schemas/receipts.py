"""Receipts: what is in a bucket. A bucket is exactly the set of files that its newest receipt lists.

A receipt is a union of commits by their ids, so merging the same commit again changes nothing, and the
order of commits does not matter: retries, restarts, backfills and late panes can repeat without harm.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from hashlib import sha256
from typing import Any

from schemas.buckets import Bucket
from schemas.elsewhere import Elsewhere
from schemas.envelope import format_time, parse_time
from schemas.fingerprints import Tally, total
from schemas.outcomes import Exit
from schemas.reports import (
    Books,
    Delivered,
    add_books,
    books_to_json,
    read_books,
    read_count,
    read_flag,
    read_reasons,
    read_text,
    read_version,
)
from schemas.shards import Shard

Reasons = Mapping[str, Mapping[str, int]]
"""event type -> reason -> number of dead letters."""


class ReceiptError(Exception):
    """A receipt can't be read. The message names the object; nothing was overwritten."""


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
        return json.dumps({**_work_to_json(self), **more}, sort_keys=True).encode()

    @classmethod
    def from_json(cls, data: bytes | str) -> Contribution:
        value = json.loads(data)
        return replace(_work_from_json(value), packs=tuple(value["packs"]), trouble=value["trouble"])

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


def add_reasons(left: Reasons, right: Reasons) -> dict[str, dict[str, int]]:
    """The sum of two tables of reasons."""
    result = {kind: dict(numbers) for kind, numbers in left.items()}
    for kind, numbers in right.items():
        mine = result.setdefault(kind, {})
        for reason, number in numbers.items():
            mine[reason] = mine.get(reason, 0) + number
    return result


@dataclass(frozen=True)
class Commit:
    """A contribution that has become part of a bucket. late: rows that it brought after the bucket had closed."""

    work: Contribution
    at: datetime
    late: int = 0


@dataclass(frozen=True)
class Receipt:
    """One version of what a bucket holds. Version 0 is the bucket that nobody has written to yet."""

    bucket: Bucket
    version: int = 0
    commits: tuple[Commit, ...] = ()
    closed_at: datetime | None = None

    @property
    def closed(self) -> bool:
        return self.closed_at is not None

    @property
    def parts(self) -> tuple[Part, ...]:
        return tuple(part for commit in self.commits for part in commit.work.parts)

    @property
    def elsewhere(self) -> tuple[Elsewhere, ...]:
        return tuple(file for commit in self.commits for file in commit.work.elsewhere)

    @property
    def ids(self) -> Tally:
        """The tally of all delivered ids. Its count is the number of rows."""
        return total(part.ids for part in self.parts)

    @property
    def books(self) -> dict[str, dict[Exit, Tally]]:
        books: dict[str, dict[Exit, Tally]] = {}
        for commit in self.commits:
            books = add_books(books, commit.work.books)
        return books

    @property
    def line(self) -> str:
        """Tells the bucket from one of its hour that was there before and was deleted."""
        return self.commits[0].work.id if self.commits else ""

    def has(self, contribution: Contribution) -> bool:
        """Whether the contribution is in already, or has nothing to add."""
        return contribution.is_empty or self.commit_of(contribution) is not None

    def commit_of(self, contribution: Contribution) -> Commit | None:
        """The one that has brought the contribution."""
        return next((commit for commit in self.commits if commit.work.id == contribution.id), None)

    def next(self, contribution: Contribution, now: datetime, close: bool) -> Receipt:
        """The receipt with the contribution in it, and closed if asked for: one version up, or itself where nothing changes.

        A bucket that has closed stays closed; rows that come after count as late.
        """
        commits, closed_at = self.commits, self.closed_at
        if not self.has(contribution):
            rows = sum(part.ids.count for part in contribution.parts)
            commits += (Commit(replace(contribution, packs=(), trouble=""), now, late=rows if self.closed else 0),)
        if close and closed_at is None:
            closed_at = now
        if commits == self.commits and closed_at == self.closed_at:
            return self
        return replace(self, version=self.version + 1, commits=commits, closed_at=closed_at)

    def report(self) -> Delivered:
        """What the audit is told of this version."""
        reasons: Reasons = {}
        for commit in self.commits:
            reasons = add_reasons(reasons, commit.work.reasons)
        late = sum(commit.late for commit in self.commits)
        return Delivered(self.bucket, self.line, self.version, self.closed, self.books, late, reasons)

    def to_json(self) -> bytes:
        """The receipt as people and programs read it: a summary first, then each commit with its files."""
        report, ids = self.report(), self.ids
        value = {
            "stream": self.bucket.stream,
            "hour": format_time(self.bucket.hour),
            "version": self.version,
            "closed": self.closed,
            "closed_at": format_time(self.closed_at) if self.closed_at else None,
            "rows": ids.count,
            "fingerprint": ids.fingerprint,
            "late": report.late,
            "counts": {kind: {str(way): tally.count for way, tally in ways.items()} for kind, ways in report.books.items()},
            "reasons": report.reasons,
            "commits": [
                {"at": format_time(commit.at), "late": commit.late, **_work_to_json(commit.work)} for commit in self.commits
            ],
        }
        return json.dumps(value, indent=1).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes, name: str) -> Receipt:
        """Reads what `to_json` gave. Raises ReceiptError, with `name`, for one that is cut, foreign or at odds with itself."""
        try:
            value = json.loads(data)
            bucket = Bucket(read_text(value["stream"]), parse_time(value["hour"]))
            commits = tuple(
                Commit(_work_from_json(one), parse_time(one["at"]), read_count(one["late"])) for one in value["commits"]
            )
            closed_at = parse_time(value["closed_at"]) if read_flag(value["closed"]) else None
            receipt = cls(bucket, read_version(value["version"]), commits, closed_at)
            if receipt.ids != Tally.from_json({"count": value["rows"], "fingerprint": value["fingerprint"]}):
                raise ValueError("its files do not add up to its rows and fingerprint")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            hint = "Restore it from the versions in _receipts/ beside it, or from a copy."
            raise ReceiptError(f"receipt {name} can't be read: {error!r}. {hint}") from None
        return receipt


def _work_to_json(work: Contribution) -> dict[str, object]:
    parts = [part.to_json() for part in work.parts]
    value: dict[str, object] = {"id": work.id, "books": books_to_json(work.books), "reasons": work.reasons, "parts": parts}
    if work.elsewhere:
        value["elsewhere"] = [file.to_json() for file in work.elsewhere]
    if work.conflicts:
        value["conflicts"] = _work_to_json(work.conflicts)
    return value


def _work_from_json(value: Mapping[str, Any]) -> Contribution:
    parts = tuple(Part.from_json(part) for part in value["parts"])
    elsewhere = tuple(Elsewhere.from_json(file) for file in value.get("elsewhere", ()))
    books, reasons = read_books(value["books"]), read_reasons(value["reasons"])
    conflicts = _work_from_json(value["conflicts"]) if "conflicts" in value else None
    return Contribution(read_text(value["id"]), books, reasons, parts, conflicts=conflicts, elsewhere=elsewhere)
