"""Delivered: which ids a stream has delivered within the horizon, asked for many at a time.

The indexes that receipts name are the truth; this is a cache of them, in memory, one for each stream and process. No payload is
read for it, and Beam keeps no state for it. Measured for a million ids: 28 MB of indexes; 28 MB of arrays here, and up to
20 MB more while they are merged; 0.3 s to take them in, 20 indexes of 50,000. To ask for 10,000 at a time took 2 us an id.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from schemas.buckets import DEAD_LETTERS, HOUR, Bucket, bucket_of, stream_folder
from schemas.shards import Shard
from storage.buckets.commit_log import Turn
from storage.buckets.id_index import Found, Known
from storage.buckets.manifest import Receipt
from storage.buckets.manifest_store import finished_receipt
from storage.buckets.part_files import read_marks
from storage.objects.base import Buckets

REMEMBERED = 3
"""An hour is forgotten when as many questions as so many windows have hours have passed it over."""


@dataclass
class _Loaded:
    """What is known of a shard. names: the files whose indexes were read, by hour; asked: which question was an hour's last."""

    known: Known
    names: dict[datetime, set[str]] = field(default_factory=dict)
    asked: dict[datetime, int] = field(default_factory=dict)
    questions: int = 0


class Delivered:
    """What one stream has delivered. For any number of threads.

    Dead letters are known within their own hour only: a message is the same at each delivery, and so comes to the same hour.
    """

    def __init__(self, buckets: Buckets, stream: str, horizon: timedelta) -> None:
        self.stream = stream
        self.horizon = horizon
        self.turns = threading.RLock()
        """Held by who takes a turn, so that the threads of a process wait for each other and need not begin again."""
        self._buckets = buckets
        self._lock = threading.RLock()
        self._receipts: dict[datetime, Receipt] = {}
        self._turn: int | None = None
        self._loaded: dict[Shard, _Loaded] = {}

    @property
    def is_ordered(self) -> bool:
        """Whether what other buckets hold counts, so that commits to them need an order."""
        return self.stream != DEAD_LETTERS

    def find(self, turn: Turn, own: Receipt, shard: Shard, marks: bytes) -> Found:
        """What is known of marks of a bucket, all of one shard, with all that was committed up to the turn. own: the bucket's
        receipt, read after the turn. Raises BucketsError or ReceiptError.
        """
        # In one go: another thread may have an older view, which it must not leave behind for this one.
        with self._lock:
            self._refresh(turn, own)
            hour = own.bucket.hour
            window = self._window(hour)
            self._learn(window)
            loaded = self._loaded.setdefault(shard, _Loaded(Known(self.horizon)))
            for receipt in map(self._receipts.__getitem__, window):
                names = loaded.names.setdefault(receipt.bucket.hour, set())
                for part in receipt.parts:
                    if part.name not in names and part.shard.meets(shard):
                        loaded.known.add(receipt.bucket.hour, read_marks(self._buckets, receipt.bucket.folder, part))
                        names.add(part.name)
            self._forget_what_is_not_asked_for(loaded, window)
            return loaded.known.find(hour, marks)

    def _refresh(self, turn: Turn, own: Receipt) -> None:
        if self._turn is not None and turn.number < self._turn:
            return  # more is known here
        changed = None if self._turn is None else turn.buckets_since(self._turn)
        if changed is None:
            self._receipts.clear()
            self._loaded.clear()
        for bucket in changed or ():
            self._receipts.pop(bucket.hour, None)
        self._turn = turn.number
        self._receipts[own.bucket.hour] = own

    def _forget_what_is_not_asked_for(self, loaded: _Loaded, window: list[datetime]) -> None:
        loaded.questions += 1
        loaded.asked.update(dict.fromkeys(window, loaded.questions))
        old = [hour for hour, asked in loaded.asked.items() if loaded.questions - asked > REMEMBERED * len(window)]
        for hour in old:
            del loaded.asked[hour], loaded.names[hour]
            self._receipts.pop(hour, None)
        if old:
            loaded.known.keep(loaded.names)

    def _window(self, hour: datetime) -> list[datetime]:
        reach = -(-self.horizon // HOUR) if self.is_ordered else 0
        return [hour + number * HOUR for number in range(-reach, reach + 1)]

    def _learn(self, window: list[datetime]) -> None:
        """Reads the receipts of the hours that are not known, if there are any."""
        missing = {hour for hour in window if hour not in self._receipts}
        if not missing:
            return
        folder = stream_folder(self.stream)
        found = set()
        for name in self._buckets.list(f"{folder}/", f"{folder}/dt={min(missing):%Y-%m-%d}/hour={min(missing):%H}"):
            bucket = bucket_of(name)
            if bucket and bucket.hour > max(missing):
                break
            if bucket:
                found.add(bucket.hour)
        for hour in missing:
            bucket = Bucket(self.stream, hour)
            self._receipts[hour] = finished_receipt(self._buckets, bucket) if hour in found else Receipt(bucket)


def forget(buckets: Buckets) -> None:
    """A new run begins: what this process knew of these buckets may have been deleted since."""
    with _making:
        for key in [key for key in _delivered if key[0] == buckets.uri]:
            del _delivered[key]


_delivered: dict[tuple[str, str, timedelta], Delivered] = {}
_making = threading.Lock()


def delivered_of(buckets: Buckets, stream: str, horizon: timedelta) -> Delivered:
    """The one of this process for a stream."""
    key = (buckets.uri, stream, horizon)
    with _making:
        if key not in _delivered:
            _delivered[key] = Delivered(buckets, stream, horizon)
        return _delivered[key]
