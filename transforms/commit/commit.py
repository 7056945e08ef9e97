"""Commit: makes a committable part of its bucket, once, whatever else writes to the stream's buckets at the same time.

Who wants to add files takes a turn (`storage.buckets.commit_log`), takes out what is delivered already, and creates the
manifest's next version; who loses that race begins again.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime
from functools import partial

from schemas.buckets import DEAD_LETTERS, Bucket
from schemas.fingerprints import Tally
from schemas.outcomes import Outcome
from storage.buckets.commit_log import Turn, last_turn, take_turn
from storage.buckets.committable import Committable, combine
from storage.buckets.manifest import Commit, Manifest
from storage.buckets.manifest_store import finished_receipt, publish_manifest, races
from storage.objects.base import AlreadyExists, ObjectStore
from transforms.dedup.conflicts import stage_conflicts
from transforms.dedup.delivered_index import DeliveredIndexes
from transforms.dedup.drop_duplicates import without_repeats
from transforms.metrics import (
    BUCKETS_CLOSED,
    CLOSE_DELAY,
    COMMIT_CONFLICTS,
    COMMITS,
    DEAD_LETTERS_ADDED,
    EVENTS_DELIVERED,
    EVENTS_DUPLICATE,
    EVENTS_LATE,
    BundleMetrics,
)

_BY_OUTCOME = {
    Outcome.DELIVERED: EVENTS_DELIVERED,
    Outcome.DUPLICATE: EVENTS_DUPLICATE,
    Outcome.DEAD_LETTER: DEAD_LETTERS_ADDED,
}
_NOTHING = Tally()


def commit(
    store: ObjectStore,
    bucket: Bucket,
    committable: Committable,
    close: bool,
    clock: Callable[[], datetime],
    new_id: Callable[[], str],
    delivered: DeliveredIndexes,
    metrics: BundleMetrics | None = None,
) -> tuple[Manifest, ...]:
    """Adds the committable, closes the bucket if asked for, and returns the newest manifest, whose files are all in place.

    Ids that are `delivered` are taken out of the committable's files and counted as duplicates. Those that came with another
    payload become dead letters, whose manifest is returned as well: those that conflict with what is delivered are committed
    first; those that do with the committable itself last, and the manifest keeps them. Repeating a commit changes nothing.
    Raises StoreError or ManifestError; a repeat then takes up where this one ended.
    """
    manifests: dict[Bucket, Manifest] = {}

    def refuse(events: Committable | None) -> None:
        if events:
            [manifest] = commit(store, Bucket(DEAD_LETTERS, bucket.hour), events, False, clock, new_id, delivered, metrics)
            manifests[manifest.bucket] = manifest

    refused: set[str] = set()
    index, metrics = delivered.of(bucket.stream), metrics or BundleMetrics()
    # In this process one waits for the other, rather than having to begin again.
    with index.turns if committable.data_files else nullcontext():
        for _ in races(bucket):
            turn = last_turn(store, bucket.stream) if committable.data_files and index.is_ordered else Turn()
            manifest = finished_receipt(store, bucket)
            if manifest.closed:
                publish_manifest(store, manifest)
            addition = committable
            if committable.data_files and not manifest.has(committable):
                find = partial(index.find, turn, manifest)
                addition, events, inner = without_repeats(store, bucket, committable, new_id, find, index.horizon)
                found = [event for event in events if event.message_id not in refused]
                refuse(stage_conflicts(store, bucket.hour, committable.id, found, new_id))
                refused |= {event.message_id for event in found}
                own = stage_conflicts(store, bucket.hour, f"{committable.id}-inner", inner, new_id)
                addition = replace(addition, conflicts=_joined(committable.conflicts, own))
            following = manifest.next(addition, clock(), close)
            if following is not manifest:
                if not _created(store, turn, following, ordered=bool(addition.data_files) and index.is_ordered):
                    metrics.add(COMMIT_CONFLICTS)
                    continue
                publish_manifest(store, following)
                _count_close(metrics, manifest, following)
            # Not before. Where a crash parts the two, messages may come again in another order: what was refused already, for
            # the sake of another that is not delivered yet, would come first and be delivered.
            committed = following.commit_of(committable)
            _count_commit(metrics, committed)
            refuse(committed.committable.conflicts if committed else committable.conflicts)
            return (following, *manifests.values())
    raise AssertionError("races end by a return or an error")


def _count_close(metrics: BundleMetrics, before: Manifest, after: Manifest) -> None:
    if after.closed_at and not before.closed:
        metrics.add(BUCKETS_CLOSED)
        metrics.observe(CLOSE_DELAY, (after.closed_at - after.bucket.end).total_seconds())


def _count_commit(metrics: BundleMetrics, commit: Commit | None) -> None:
    """Count a committable that is in its bucket, also if an earlier attempt put it there, whose bundle has failed since."""
    if commit:
        metrics.add(COMMITS)
        metrics.add(EVENTS_LATE, commit.late)
        for outcomes in commit.committable.counters.values():
            for outcome, metric in _BY_OUTCOME.items():
                metrics.add(metric, outcomes.get(outcome, _NOTHING).count)


def _created(store: ObjectStore, turn: Turn, manifest: Manifest, ordered: bool) -> bool:
    if ordered:
        return take_turn(store, turn, manifest)
    try:
        store.create(manifest.bucket.version_name(manifest.version), manifest.to_json())
    except AlreadyExists:
        return False
    return True


def _joined(*conflicts: Committable | None) -> Committable | None:
    given = [one for one in conflicts if one]
    return combine(given) if given else None
