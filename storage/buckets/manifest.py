"""Receipts: what is in a bucket. A bucket is exactly the set of files that its newest receipt lists.

A receipt is a union of contributions.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import datetime

from schemas.audit_reports import Delivered
from schemas.buckets import Bucket
from schemas.counters import Reasons, add_books, add_reasons
from schemas.envelope import format_time, parse_time
from schemas.fingerprints import Tally, total
from schemas.json_fields import read_count, read_flag, read_text, read_version
from schemas.outcomes import Exit
from storage.buckets.committable import Contribution, Part, work_from_json, work_to_json
from storage.buckets.duplicate_refs import Elsewhere


class ReceiptError(Exception):
    """A receipt can't be read. The message names the object; nothing was overwritten."""


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
                {"at": format_time(commit.at), "late": commit.late, **work_to_json(commit.work)} for commit in self.commits
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
                Commit(work_from_json(one), parse_time(one["at"]), read_count(one["late"])) for one in value["commits"]
            )
            closed_at = parse_time(value["closed_at"]) if read_flag(value["closed"]) else None
            receipt = cls(bucket, read_version(value["version"]), commits, closed_at)
            if receipt.ids != Tally.from_json({"count": value["rows"], "fingerprint": value["fingerprint"]}):
                raise ValueError("its files do not add up to its rows and fingerprint")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            hint = "Restore it from the versions in _receipts/ beside it, or from a copy."
            raise ReceiptError(f"receipt {name} can't be read: {error!r}. {hint}") from None
        return receipt
