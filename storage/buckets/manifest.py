"""Manifests, which describe buckets. A bucket is exactly the set of files that its newest manifest lists.

A manifest is the union of the committables of its bucket.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import datetime

from schemas.audit_reports import DeliveredReport
from schemas.buckets import Bucket
from schemas.counters import Reasons, add_counters, add_reasons
from schemas.envelope import format_time, parse_time
from schemas.errors import EventDeliveryError
from schemas.fingerprints import Tally, total
from schemas.json_fields import read_count, read_flag, read_text, read_version
from schemas.outcomes import Outcome
from storage.buckets.committable import Committable, DataFile, committable_from_json, committable_to_json
from storage.buckets.duplicate_refs import Elsewhere


class ManifestError(EventDeliveryError):
    """A manifest can't be read. The message names the object, which was not overwritten."""


@dataclass(frozen=True)
class Commit:
    """A committable that is part of a bucket."""

    committable: Committable
    at: datetime
    """Time of the commit."""
    late: int = 0
    """Number of rows that were added after the bucket had closed."""


@dataclass(frozen=True)
class Manifest:
    """One version of a bucket's content. Version 0 is the bucket before its first commit."""

    bucket: Bucket
    version: int = 0
    commits: tuple[Commit, ...] = ()
    closed_at: datetime | None = None

    @property
    def closed(self) -> bool:
        return self.closed_at is not None

    @property
    def data_files(self) -> tuple[DataFile, ...]:
        return tuple(data_file for commit in self.commits for data_file in commit.committable.data_files)

    @property
    def elsewhere(self) -> tuple[Elsewhere, ...]:
        return tuple(file for commit in self.commits for file in commit.committable.elsewhere)

    @property
    def ids(self) -> Tally:
        """Tally of all delivered ids. Its count is the number of rows."""
        return total(data_file.ids for data_file in self.data_files)

    @property
    def counters(self) -> dict[str, dict[Outcome, Tally]]:
        counters: dict[str, dict[Outcome, Tally]] = {}
        for commit in self.commits:
            counters = add_counters(counters, commit.committable.counters)
        return counters

    @property
    def lineage(self) -> str:
        """Id of the first committable. It distinguishes the bucket from an earlier one of the hour that was deleted."""
        return self.commits[0].committable.id if self.commits else ""

    def has(self, committable: Committable) -> bool:
        """Return whether the committable is part of this version, or has nothing to add."""
        return committable.is_empty or self.commit_of(committable) is not None

    def commit_of(self, committable: Committable) -> Commit | None:
        """Return the commit of the committable, or None."""
        return next((commit for commit in self.commits if commit.committable.id == committable.id), None)

    def next(self, committable: Committable, now: datetime, close: bool) -> Manifest:
        """Return the manifest with the committable added, closed if `close` is true.

        It is one version higher, or `self` if nothing changes. A closed bucket stays closed, and rows that are added to it
        count as late.
        """
        commits, closed_at = self.commits, self.closed_at
        if not self.has(committable):
            rows = sum(data_file.ids.count for data_file in committable.data_files)
            commits += (Commit(replace(committable, packs=(), failure=""), now, late=rows if self.closed else 0),)
        if close and closed_at is None:
            closed_at = now
        if commits == self.commits and closed_at == self.closed_at:
            return self
        return replace(self, version=self.version + 1, commits=commits, closed_at=closed_at)

    def report(self) -> DeliveredReport:
        """Return the report on this version that goes to the audit."""
        reasons: Reasons = {}
        for commit in self.commits:
            reasons = add_reasons(reasons, commit.committable.reasons)
        late = sum(commit.late for commit in self.commits)
        return DeliveredReport(self.bucket, self.lineage, self.version, self.closed, self.counters, late, reasons)

    def to_json(self) -> bytes:
        """Serialize the manifest for programs and people: a summary first, then each commit with its files."""
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
            "counts": {
                kind: {str(outcome): tally.count for outcome, tally in outcomes.items()}
                for kind, outcomes in report.counters.items()
            },
            "reasons": report.reasons,
            "commits": [
                {"at": format_time(commit.at), "late": commit.late, **committable_to_json(commit.committable)}
                for commit in self.commits
            ],
        }
        return json.dumps(value, indent=1).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes, name: str) -> Manifest:
        """Parse the result of `to_json`.

        Args:
            data: Content of the object.
            name: Name of the object, for errors.

        Raises:
            ManifestError: `data` is truncated, is no manifest, or contradicts itself.
        """
        try:
            value = json.loads(data)
            bucket = Bucket(read_text(value["stream"]), parse_time(value["hour"]))
            commits = tuple(
                Commit(committable_from_json(commit), parse_time(commit["at"]), read_count(commit["late"]))
                for commit in value["commits"]
            )
            closed_at = parse_time(value["closed_at"]) if read_flag(value["closed"]) else None
            manifest = cls(bucket, read_version(value["version"]), commits, closed_at)
            if manifest.ids != Tally.from_json({"count": value["rows"], "fingerprint": value["fingerprint"]}):
                raise ValueError("its files do not add up to its rows and fingerprint")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            hint = "What to do: restore it from its versions in the folder _receipts/ of the bucket, or from a copy"
            raise ManifestError(f"manifest {name} can't be read: {error!r}. {hint}") from None
        return manifest
