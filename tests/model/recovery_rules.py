"""Ways back: replay, backfill, repair and audit, between all that happens to deliver."""

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
from tests.model.machine import KINDS, MOST_WRITES, ORDERS, STREAMS, Delivery
from tests.model.oracle import LARGE, Said, report_of
from tests.model.process import LATENESS, Process
from tests.support.archive import Archived, write_archive
from transforms.recovery.archive import Wanted, archive_files, read_messages
from transforms.recovery.replay import DeadLetter, Replay


class DeliveryAndWaysBack(Delivery):
    @precondition(lambda self: not self.sets.mended)
    @rule()
    def mend(self) -> None:
        """A second version of the contracts, by which LARGE is good, and processes that know it."""
        self.sets.mended = True
        self.write_contracts(2, "long")

    @precondition(lambda self: self.held.dead_letters)
    @rule(times=st.integers(1, 2), reasons=st.sampled_from([set(Reason), {Reason.OUT_OF_RANGE}, {Reason.CONFLICTING_PAYLOAD}]))
    def replay(self, times: int, reasons: set[Reason]) -> None:
        """Dead letters are published again, twice perhaps before any is delivered."""
        for _ in range(times):
            replay = Replay(self.store, frozenset(reasons), self.now, LATENESS)
            for bucket in sorted(bucket for bucket in self.held.manifests if bucket.stream == DEAD_LETTERS):
                for dead_letter in replay.due(bucket):
                    self.put_again(bucket, dead_letter)
            assert not replay.problems

    def put_again(self, bucket: Bucket, dead_letter: DeadLetter) -> None:
        """Publishes a dead letter: under its own event id, for the hour that it was published for, and told to be a replay."""
        assert dead_letter.attributes[REPLAY_OF] == dead_letter.message_id
        first = self.sets.said[dead_letter.message_id]
        claimed = parse_time(dead_letter.attributes[RECEIVED_AT])
        assert dead_letter.attributes["event_id"] == first.event.event_id
        assert (dead_letter.event_type, claimed) == (first.event.kind, first.claimed)
        said = Said(first.event, dead_letter.data, claimed, self.now, dead_letter.message_id, is_replay=True)
        if not dead_letter.is_late(self.now, LATENESS):
            assert hour_of(said.received_at) == bucket.hour
            assert first.event not in {row.event for row in self.held.rows.get(Bucket(first.event.kind, bucket.hour), ())}
        self.put(first.event, dead_letter.data, None, dict(dead_letter.attributes), said)

    @precondition(lambda self: self.settled and self.held.manifests)
    @rule(order=ORDERS, hours=st.integers(1, 4))
    def backfill(self, order: random.Random, hours: int) -> None:
        """Over hours that are complete: changes no row, but for events that a mended contract lets in, and for those of which
        an hour that was rebuilt has taken another message."""
        first = order.choice(sorted({bucket.hour for bucket in self.held.manifests}))
        before = self.held
        self.bring(Wanted(first, first + (hours - 1) * HOUR, LATENESS), order)
        self.look()
        self.check_tables()
        free = self.sets.loose | {said.event for said in self.sets.said.values() if said.payload == LARGE and self.sets.mended}
        for bucket, rows in before.rows.items():
            same = [row for row in self.held.rows[bucket] if row in rows or row.event not in free]
            assert sorted(same) == sorted(rows), f"a backfill has changed {bucket}"

    @precondition(lambda self: self.busy_hours)
    @rule(order=ORDERS, at=st.none() | st.integers(1, MOST_WRITES), after=st.booleans(), emptied=st.booleans())
    def rebuild(self, order: random.Random, at: int | None, after: bool, emptied: bool) -> None:
        """An hour's buckets are deleted, and its partitions emptied or left; and a backfill brings them back, perhaps after one
        that was stopped."""
        hour = order.choice(self.busy_hours)
        before, closed = self.held.ids, {bucket for bucket, one in self.held.manifests.items() if one.closed}
        for stream in STREAMS:
            shutil.rmtree(self.folder / "storage" / Bucket(stream, hour).folder, ignore_errors=True)
            # A bucket that comes back empty is not loaded: what its partition held stays there.
            if emptied or self.sets.mended:
                self.observed.empty_partition(Bucket(stream, hour))
        self.sets.rebuilt(hour)
        self.start(1)
        wanted, self.crashed = Wanted(hour, hour, LATENESS), self.crashed or at is not None
        self.stopped(self.same, at, after, lambda: self.bring(wanted, order))
        self.bring(wanted, order)
        self.start_other()
        self.look(deleted=hour)
        assert before <= self.held.ids, "a rebuilt hour has lost an event"
        assert closed <= {bucket for bucket, one in self.held.manifests.items() if one.closed}

    @property
    def busy_hours(self) -> list[datetime]:
        """Those that have buckets, and a message: one without any does not come back."""
        met = {hour_of(said.received_at) for said in self.sets.said.values()}
        return sorted({bucket.hour for bucket in self.held.manifests} & met)

    @precondition(lambda self: self.messages)
    @rule(order=ORDERS)
    def repair(self, order: random.Random) -> None:
        """Delivers an event by its id, taken or not, and touches nothing but the buckets that it belongs to."""
        said = self.sets.said[order.choice(sorted(self.messages))]
        hour, before = hour_of(said.received_at), self.held
        self.bring(Wanted(hour, hour, LATENESS, {said.event}), order, SweepScope.NONE)
        self.look()
        own = {Bucket(said.event.kind, hour), Bucket(DEAD_LETTERS, hour)}
        changed = {bucket for bucket, one in self.held.manifests.items() if before.manifests.get(bucket) != one}
        # What a process that was stopped has left undone is finished by whoever asks the bucket.
        assert changed <= own or self.crashed, "a repair has touched other buckets"
        there = {row.event for bucket in own for row in self.held.rows.get(bucket, ())}
        assert said.event in there or said.event in self.held.ids

    def bring(self, wanted: Wanted, order: random.Random, sweep_scope: SweepScope = SweepScope.SEEN) -> None:
        """A backfill's process: delivers what the archive has. It holds every message that was ever published."""
        folder = self.folder / "archive"
        shutil.rmtree(folder, ignore_errors=True)
        by_hour: dict[datetime, list[Archived]] = {}
        for one in self.messages.values():
            archived = Archived(one.data, one.attributes, one.message_id, one.publish_time)
            by_hour.setdefault(hour_of(one.publish_time), []).append(archived)
        for hour, some in by_hour.items():
            write_archive(folder, some, hour)
        archive, problems = Directory(folder), list[str]()
        found = [one for name in archive_files(archive, wanted) for _, one in read_messages(archive, name, wanted, problems)]
        assert not problems
        order.shuffle(found)
        Process(self.same, self.tables, self.contracts, 1).run(found, self.now, sweep_scope=sweep_scope)

    @rule(lie=st.sampled_from([None, None, "more", "less", "another"]), order=ORDERS)
    def audit(self, lie: str | None, order: random.Random) -> None:
        """Is never COMPLETE where the model says that it is not, and COMPLETE where all was taken and is closed. lie: the
        publisher has sent an id that never came, or never sent one that did, or both."""
        hours = {hour_of(said.claimed) for said in self.sets.said.values()} | {bucket.hour for bucket in self.held.manifests}
        published = {(kind, hour): self.sets.published_for(kind, hour) for kind in KINDS for hour in hours}
        lied_to = order.choice(sorted(key for key, ids in published.items() if ids) or [None])
        if lie and lied_to:
            ids = published[lied_to]
            kept = ids if lie == "more" else [one for one in ids if one != ids[0]]
            published[lied_to] = kept if lie == "less" else [*kept, "never came"]
        shutil.rmtree(self.folder / "storage" / "audit", ignore_errors=True)
        keep(self.store, [report_of(*key, ids) for key, ids in published.items()])
        in_tables = self.observed.in_tables(STREAMS)
        for verdict in judge_hours(self.store, self.tables, sorted(hours)):
            key = verdict.event_type, verdict.hour
            both = Bucket(*key), Bucket(DEAD_LETTERS, verdict.hour)
            there = {event.event_id for event in self.held.ids if event.kind == verdict.event_type}
            seen = all(self.is_seen(bucket, verdict.event_type, in_tables) for bucket in both)
            if verdict.status == Status.COMPLETE:
                assert set(published[key]) <= there, f"{key} lacks an id"
                assert not (lie and key == lied_to), f"{key}: the publisher has said something else"
                assert seen or not any(bucket in self.held.manifests for bucket in both), f"{key} was not seen whole"
            elif self.settled and not (lie and key == lied_to):
                closed = all(bucket in self.held.manifests and self.held.manifests[bucket].closed for bucket in both)
                assert not (seen and closed) or self.sets.meets_itself(*key), verdict

    def is_seen(self, bucket: Bucket, kind: str, in_tables: dict[Bucket, list[str]]) -> bool:
        """Whether the bucket has closed, and its table holds what its files hold, if the kind has anything there."""
        if bucket not in self.held.manifests:
            return bucket.stream != DEAD_LETTERS
        rows = self.held.rows[bucket]
        is_loaded = in_tables.get(bucket, []) == sorted(row.identity for row in rows)
        return self.held.manifests[bucket].closed and (is_loaded or kind not in {row.event.kind for row in rows})
