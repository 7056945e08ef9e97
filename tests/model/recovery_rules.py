"""Rules for recovery: replay, backfill, repair and audit, between all other events of deliver."""

from __future__ import annotations

import random
import shutil
from datetime import datetime

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from audit.auditor import judge_hours
from audit.report_log import keep
from audit.verdicts import Status
from pipelines.graph import SweepScope
from schemas.buckets import DEAD_LETTERS, HOUR, Bucket, hour_of
from schemas.envelope import RECEIVED_AT, REPLAY_OF, parse_time
from schemas.outcomes import Reason
from storage.objects.local import Directory
from tests.model.machine import EVENT_TYPES, MOST_WRITES, ORDERS, STREAMS, Delivery
from tests.model.oracle import LARGE, Sent, report_of
from tests.model.process import LATENESS, Process
from tests.support.archive import Archived, write_archive
from transforms.recovery.archive import Wanted, archive_files, read_messages
from transforms.recovery.dead_letters import DeadLetter
from transforms.recovery.replay import Replay


class DeliveryAndRecovery(Delivery):
    """The machine with all means of recovery."""

    @precondition(lambda self: not self.oracle.contract_fixed)
    @rule()
    def fix_contract(self) -> None:
        """Publish version 2 of the contracts, by which LARGE is valid, and restart the processes."""
        self.oracle.contract_fixed = True
        self.write_contracts(2, "long")

    @precondition(lambda self: self.snapshot.dead_letters)
    @rule(times=st.integers(1, 2), reasons=st.sampled_from([set(Reason), {Reason.OUT_OF_RANGE}, {Reason.CONFLICTING_PAYLOAD}]))
    def replay(self, times: int, reasons: set[Reason]) -> None:
        """Replay dead letters, perhaps twice before any is delivered."""
        for _ in range(times):
            replay = Replay(self.store, frozenset(reasons), self.now, LATENESS)
            for bucket in sorted(bucket for bucket in self.snapshot.manifests if bucket.stream == DEAD_LETTERS):
                for dead_letter in replay.due(bucket):
                    self.send_again(bucket, dead_letter)
            assert not replay.problems

    def send_again(self, bucket: Bucket, dead_letter: DeadLetter) -> None:
        """Publish a dead letter under its own event id, for its original hour, marked as a replay."""
        assert dead_letter.attributes[REPLAY_OF] == dead_letter.message_id
        first = self.oracle.sent[dead_letter.message_id]
        claimed = parse_time(dead_letter.attributes[RECEIVED_AT])
        assert dead_letter.attributes["event_id"] == first.event.event_id
        assert (dead_letter.event_type, claimed) == (first.event.event_type, first.claimed)
        sent = Sent(first.event, dead_letter.data, claimed, self.now, dead_letter.message_id, is_replay=True)
        if not dead_letter.is_late(self.now, LATENESS):
            assert hour_of(sent.received_at) == bucket.hour
            assert first.event not in {
                row.event for row in self.snapshot.rows.get(Bucket(first.event.event_type, bucket.hour), ())
            }
        self.send(first.event, dead_letter.data, None, dict(dead_letter.attributes), sent)

    @precondition(lambda self: self.settled and self.snapshot.manifests)
    @rule(order=ORDERS, hours=st.integers(1, 4))
    def backfill(self, order: random.Random, hours: int) -> None:
        """Backfill complete hours: no row changes, with two exceptions.

        The exceptions are events that a fixed contract accepts now, and events of a rebuilt hour of which another message may
        have become the row.
        """
        first = order.choice(sorted({bucket.hour for bucket in self.snapshot.manifests}))
        before = self.snapshot
        self.run_backfill(Wanted(first, first + (hours - 1) * HOUR, LATENESS), order)
        self.observe()
        self.check_tables()
        free = self.oracle.ambiguous | {
            sent.event for sent in self.oracle.sent.values() if sent.payload == LARGE and self.oracle.contract_fixed
        }
        for bucket, rows in before.rows.items():
            kept = [row for row in self.snapshot.rows[bucket] if row in rows or row.event not in free]
            assert sorted(kept) == sorted(rows), f"a backfill has changed {bucket}"

    @precondition(lambda self: self.busy_hours)
    @rule(order=ORDERS, write_number=st.none() | st.integers(1, MOST_WRITES), after=st.booleans(), emptied=st.booleans())
    def rebuild(self, order: random.Random, write_number: int | None, after: bool, emptied: bool) -> None:
        """Delete an hour's buckets and rebuild them by a backfill, perhaps after one that was killed.

        Args:
            emptied: whether the hour's partitions are emptied too
        """
        hour = order.choice(self.busy_hours)
        before = self.snapshot.ids
        closed = {bucket for bucket, manifest in self.snapshot.manifests.items() if manifest.closed}
        for stream in STREAMS:
            shutil.rmtree(self.folder / "storage" / Bucket(stream, hour).folder, ignore_errors=True)
            # A bucket that is rebuilt empty is not loaded, so old rows would stay in its partition.
            if emptied or self.oracle.contract_fixed:
                self.observed.empty_partition(Bucket(stream, hour))
        self.oracle.note_rebuilt(hour)
        self.start(1)
        wanted, self.crashed = Wanted(hour, hour, LATENESS), self.crashed or write_number is not None
        self.run_until_killed(self.other_store, write_number, after, lambda: self.run_backfill(wanted, order))
        self.run_backfill(wanted, order)
        self.start_other()
        self.observe(deleted=hour)
        assert before <= self.snapshot.ids, "a rebuilt hour has lost an event"
        assert closed <= {bucket for bucket, manifest in self.snapshot.manifests.items() if manifest.closed}

    @property
    def busy_hours(self) -> list[datetime]:
        """Return the hours with buckets and messages: without messages an hour is not rebuilt."""
        hours_seen = {hour_of(sent.received_at) for sent in self.oracle.sent.values()}
        return sorted({bucket.hour for bucket in self.snapshot.manifests} & hours_seen)

    @precondition(lambda self: self.messages)
    @rule(order=ORDERS)
    def repair(self, order: random.Random) -> None:
        """Deliver an event by its id, whether delivered before or not. Only its own buckets may change."""
        sent = self.oracle.sent[order.choice(sorted(self.messages))]
        hour, before = hour_of(sent.received_at), self.snapshot
        self.run_backfill(Wanted(hour, hour, LATENESS, {sent.event}), order, SweepScope.NONE)
        self.observe()
        own = {Bucket(sent.event.event_type, hour), Bucket(DEAD_LETTERS, hour)}
        changed = {bucket for bucket, manifest in self.snapshot.manifests.items() if before.manifests.get(bucket) != manifest}
        # The next reader of a bucket finishes the commit of a killed process.
        assert changed <= own or self.crashed, "a repair has touched other buckets"
        stored = {row.event for bucket in own for row in self.snapshot.rows.get(bucket, ())}
        assert sent.event in stored or sent.event in self.snapshot.ids

    def run_backfill(self, wanted: Wanted, order: random.Random, sweep_scope: SweepScope = SweepScope.SEEN) -> None:
        """Run a backfill in a process of its own, from an archive of every message ever published."""
        folder = self.folder / "archive"
        shutil.rmtree(folder, ignore_errors=True)
        by_hour: dict[datetime, list[Archived]] = {}
        for message in self.messages.values():
            archived = Archived(message.data, message.attributes, message.message_id, message.publish_time)
            by_hour.setdefault(hour_of(message.publish_time), []).append(archived)
        for hour, of_hour in by_hour.items():
            write_archive(folder, of_hour, hour)
        archive, problems = Directory(folder), list[str]()
        found = [
            message for name in archive_files(archive, wanted) for _, message in read_messages(archive, name, wanted, problems)
        ]
        assert not problems
        order.shuffle(found)
        Process(self.other_store, self.tables, self.contracts, 1).run(found, self.now, sweep_scope=sweep_scope)

    @rule(lie=st.sampled_from([None, None, "more", "less", "another"]), order=ORDERS)
    def audit(self, lie: str | None, order: random.Random) -> None:
        """Check verdicts against the model.

        A verdict is never COMPLETE if the model disagrees, and always COMPLETE if every message was delivered and all is
        closed.

        Args:
            lie: the publisher reports an id that was never sent ("more"), omits one that was ("less"), or both ("another")
        """
        if lie == "less" and not self.settled:
            lie = None  # nothing contradicts the report as long as the omitted event is not delivered
        hours = {hour_of(sent.claimed) for sent in self.oracle.sent.values()} | {
            bucket.hour for bucket in self.snapshot.manifests
        }
        published = {
            (event_type, hour): self.oracle.published_for(event_type, hour) for event_type in EVENT_TYPES for hour in hours
        }
        lied_to = order.choice(sorted(key for key, ids in published.items() if ids) or [None])
        if lie and lied_to:
            ids = published[lied_to]
            kept = ids if lie == "more" else [event_id for event_id in ids if event_id != ids[0]]
            published[lied_to] = kept if lie == "less" else [*kept, "never came"]
        shutil.rmtree(self.folder / "storage" / "audit", ignore_errors=True)
        keep(self.store, [report_of(*key, ids) for key, ids in published.items()])
        in_tables = self.observed.in_tables(STREAMS)
        for verdict in judge_hours(self.store, self.tables, sorted(hours)):
            key = verdict.event_type, verdict.hour
            both = Bucket(*key), Bucket(DEAD_LETTERS, verdict.hour)
            stored = {event.event_id for event in self.snapshot.ids if event.event_type == verdict.event_type}
            consistent = all(self.is_consistent(bucket, verdict.event_type, in_tables) for bucket in both)
            if verdict.status == Status.COMPLETE:
                assert set(published[key]) <= stored, f"{key} lacks an id"
                assert not (lie and key == lied_to), f"{key}: the publisher has reported something else"
                assert consistent or not any(bucket in self.snapshot.manifests for bucket in both), (
                    f"{key} is open or not fully loaded"
                )
            elif self.settled and not (lie and key == lied_to):
                closed = all(bucket in self.snapshot.manifests and self.snapshot.manifests[bucket].closed for bucket in both)
                assert not (consistent and closed) or self.oracle.shares_a_row(*key), verdict

    def is_consistent(self, bucket: Bucket, event_type: str, in_tables: dict[Bucket, list[str]]) -> bool:
        """Return whether the bucket is closed and its table equals its files.

        The table may differ if the bucket holds no event of this type.
        """
        if bucket not in self.snapshot.manifests:
            return bucket.stream != DEAD_LETTERS
        rows = self.snapshot.rows[bucket]
        is_loaded = in_tables.get(bucket, []) == sorted(row.identity for row in rows)
        return self.snapshot.manifests[bucket].closed and (
            is_loaded or event_type not in {row.event.event_type for row in rows}
        )
