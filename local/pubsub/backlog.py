"""What waits in one subscription, and who holds it until when. Messages are bytes; time is passed in, in seconds."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count

MAX_ANSWER_BYTES = 3_900_000
"""In one answer, unless it is a single message: a client that was made through PUBSUB_EMULATOR_HOST takes up to 4 MiB."""

_SPARE_ENDS = 1_000


@dataclass(slots=True)
class Flow:
    """What one reader has in hand, and how much it wants at most. A maximum of 0 or less means none."""

    max_messages: int = 0
    max_bytes: int = 0
    messages: int = 0
    bytes: int = 0

    def has_room(self, size: int) -> bool:
        """Whether it may be given a message of `size` bytes. One above max_bytes may come when nothing else is in hand."""
        if 0 < self.max_messages <= self.messages:
            return False
        return self.max_bytes <= 0 or not self.messages or self.bytes + size <= self.max_bytes


@dataclass(slots=True)
class Lease:
    message: bytes
    until: float
    flow: Flow


class Backlog:
    """The messages of one subscription that are not acked: available, or leased until a time."""

    def __init__(self, prefix: str) -> None:
        """prefix: begins every ack id, and no other backlog's."""
        self._prefix = prefix
        self._deliveries = count(1)
        self._available: deque[bytes] = deque()
        self._leases: dict[str, Lease] = {}
        # Entries whose lease is gone or has another end are skipped, which spares a search at each ack.
        self._ends: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return len(self._available) + len(self._leases)

    def add(self, messages: Iterable[bytes]) -> None:
        self._available.extend(messages)

    def take(self, now: float, seconds: float, limit: int, flow: Flow) -> list[tuple[str, bytes]]:
        """Leases up to `limit` messages for `seconds`, as flow allows: their new ack ids, and the messages."""
        self.expire(now)
        taken: list[tuple[str, bytes]] = []
        total = 0
        until = now + seconds
        while self._available and len(taken) < limit:
            message = self._available[0]
            size = len(message)
            if not flow.has_room(size) or (taken and total + size > MAX_ANSWER_BYTES):
                break
            self._available.popleft()
            ack_id = f"{self._prefix}-{next(self._deliveries)}"
            self._leases[ack_id] = Lease(message, until, flow)
            heapq.heappush(self._ends, (until, ack_id))
            flow.messages += 1
            flow.bytes += size
            total += size
            taken.append((ack_id, message))
        return taken

    def ack(self, now: float, ack_ids: Iterable[str]) -> None:
        """Forgets the messages. Ack ids whose lease has ended change nothing."""
        self.expire(now)
        for ack_id in ack_ids:
            self._end(ack_id)
        self._compact()

    def extend(self, now: float, ack_ids: Iterable[str], seconds: float) -> None:
        """Lets leases end in `seconds` from now, which may be sooner than before; 0 makes the messages available at once."""
        self.expire(now)
        for ack_id in ack_ids:
            lease = self._leases.get(ack_id)
            if lease:
                lease.until = now + seconds
                heapq.heappush(self._ends, (lease.until, ack_id))
        self.expire(now)
        self._compact()

    def expire(self, now: float) -> None:
        """Makes available what is leased until `now` or an earlier time, behind what waits already."""
        while (end := self.next_end()) is not None and end <= now:
            lease = self._end(self._ends[0][1])
            if lease:
                self._available.append(lease.message)

    def next_end(self) -> float | None:
        """When the next lease ends; None where nothing is leased."""
        while self._ends:
            until, ack_id = self._ends[0]
            lease = self._leases.get(ack_id)
            if lease and lease.until == until:
                return until
            heapq.heappop(self._ends)
        return None

    def _end(self, ack_id: str) -> Lease | None:
        lease = self._leases.pop(ack_id, None)
        if lease:
            lease.flow.messages -= 1
            lease.flow.bytes -= len(lease.message)
        return lease

    def _compact(self) -> None:
        if len(self._ends) > 2 * len(self._leases) + _SPARE_ENDS:
            self._ends = [(lease.until, ack_id) for ack_id, lease in self._leases.items()]
            heapq.heapify(self._ends)
