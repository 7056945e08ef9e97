"""The audit's ledger: every report ever heard, kept beside the buckets, so that an hour can be judged again at any time."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import UTC, datetime
from hashlib import sha256

from schemas.audit_reports import DeliveredReport, PublishedReport, Report, parse_report
from schemas.buckets import Bucket
from storage.objects.base import ObjectStore, StoreError

_FOLDER = "audit/reports"

_log = logging.getLogger(__name__)


def keep(store: ObjectStore, reports: Iterable[Report]) -> int:
    """Stores reports, one a line, under their hours, and returns how many hours that touched. Keeping the same ones again
    changes nothing."""
    by_hour: dict[datetime, set[bytes]] = {}
    for report in reports:
        by_hour.setdefault(_hour(report), set()).add(report.to_json())
    for hour, lines in by_hour.items():
        content = b"\n".join(sorted(lines)) + b"\n"
        store.create(f"{_folder(hour)}/{sha256(content).hexdigest()[:32]}.ndjson", content)
    return len(by_hour)


def known_hours(store: ObjectStore) -> list[datetime]:
    """The hours that some report speaks of, in order."""
    hours = set()
    for name in store.list(f"{_FOLDER}/"):
        try:
            hours.add(datetime.strptime("/".join(name.split("/")[2:4]), "dt=%Y-%m-%d/hour=%H").replace(tzinfo=UTC))
        except ValueError:
            _log.warning(
                "%s/%s is not a file of reports and was ignored. What to do: move it out of this folder", store.uri, name
            )
    return sorted(hours)


def heard(store: ObjectStore, hour: datetime) -> tuple[list[PublishedReport], dict[Bucket, dict[str, DeliveredReport]]]:
    """The publishers' reports of an hour, one of each id, and of each bucket the newest of each lineage. StoreError names a
    broken file."""
    published: dict[str, PublishedReport] = {}
    delivered: dict[Bucket, dict[str, DeliveredReport]] = {}
    for name in store.list(f"{_folder(hour)}/"):
        data, _ = store.read(name)
        for line in data.splitlines():
            try:
                report = parse_report(line)
            except ValueError as error:
                raise StoreError(f"{name} can't be read as reports: {error}. What to do: restore it from a copy") from None
            if isinstance(report, PublishedReport):
                published[report.id] = report
                continue
            newest = delivered.setdefault(report.bucket, {})
            if report.lineage not in newest or newest[report.lineage].version < report.version:
                newest[report.lineage] = report
    return list(published.values()), delivered


def _hour(report: Report) -> datetime:
    return report.hour if isinstance(report, PublishedReport) else report.bucket.hour


def _folder(hour: datetime) -> str:
    return f"{_FOLDER}/dt={hour:%Y-%m-%d}/hour={hour:%H}"
