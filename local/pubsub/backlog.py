"""Messages and leases of one subscription. Messages are bytes. The time is a parameter of each method, in seconds."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count

MAX_RESPONSE_BYTES = 3_900_000
"""Size of the messages in a response, unless it has only one. A client that uses PUBSUB_EMULATOR_HOST accepts up to 4 MiB."""

_SPARE_ENDS = 1_000
"""Stale entries that `Backlog._ends` may have, beyond twice the number of leases, before it is compacted."""


@dataclass(slots=True)
class Flow:
    """Flow control of one subscriber: the messages that are leased to it, and its limits. A limit of 0 or less is none."""

    max_messages: int = 0
    max_bytes: int = 0
    messages: int = 0
    """Number of messages that are leased to the subscriber."""
    bytes: int = 0
    """Size of these messages."""

    def has_room(self, size: int) -> bool:
        """Return whether a message of `size` bytes may be leased. One above max_bytes may be if it is the only one."""
        if 0 < self.max_messages <= self.messages:
            return False
        return self.max_bytes <= 0 or not self.messages or self.bytes + size <= self.max_bytes


@dataclass(slots=True)
class Lease:
    """A delivered message that is not acknowledged yet."""

    message: bytes
    until: float
    """Time at which the lease expires."""
    flow: Flow
    """Flow control of the subscriber that has the lease."""


class Backlog:
    """The messages of one subscription that are not acknowledged: each is available, or leased until a time."""

    def __init__(self, prefix: str) -> None:
        """Create an empty backlog.

        Args:
            prefix: First part of all ack ids. No other backlog may have the same one.
        """
        self._prefix = prefix
        self._deliveries = count(1)
        self._available: deque[bytes] = deque()
        self._leases: dict[str, Lease] = {}
        # A heap. Entries of leases that are over or were extended are skipped later, which saves a search per ack.
        self._ends: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return len(self._available) + len(self._leases)

    def add(self, messages: Iterable[bytes]) -> None:
        self._available.extend(messages)

    def take(self, now: float, seconds: float, limit: int, flow: Flow) -> list[tuple[str, bytes]]:
        """Lease up to `limit` messages for `seconds`, as many as `flow` permits.

        Returns:
            The new ack id and the message of each.
        """
        self.expire(now)
        taken: list[tuple[str, bytes]] = []
        total = 0
        until = now + seconds
        while self._available and len(taken) < limit:
            message = self._available[0]
            size = len(message)
            if not flow.has_room(size) or (taken and total + size > MAX_RESPONSE_BYTES):
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
        """Delete the messages. Ack ids of expired leases are ignored."""
        self.expire(now)
        for ack_id in ack_ids:
            self._end(ack_id)
        self._compact()

    def set_expiry(self, now: float, ack_ids: Iterable[str], seconds: float) -> None:
        """Let leases expire in `seconds` from now, which may be later or earlier than before.

        With 0, the messages are available at once. Ack ids of expired leases are ignored.
        """
        self.expire(now)
        for ack_id in ack_ids:
            lease = self._leases.get(ack_id)
            if lease:
                lease.until = now + seconds
                heapq.heappush(self._ends, (lease.until, ack_id))
        self.expire(now)
        self._compact()

    def expire(self, now: float) -> None:
        """End all leases until `now` or earlier. Their messages become available after those that already are."""
        while (expiry := self.next_expiry()) is not None and expiry <= now:
            lease = self._end(self._ends[0][1])
            if lease:
                self._available.append(lease.message)

    def next_expiry(self) -> float | None:
        """Return the time at which the next lease expires, or None if there is no lease."""
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
