"""Faults that a stand-in of a service can be told to have, request by request."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass

ANY = 1_000_000_000


@dataclass
class Fault:
    left: int
    match: str
    status: int
    """What is answered instead; 0: nothing, the connection is dropped."""
    takes_effect: bool
    skip: int = 0
    """So many requests that match pass before it."""


class Faults:
    """Told by a test; met by the server, request by request. `match`: a part of `METHOD /path?query`. Safe for threads."""

    def __init__(self) -> None:
        self.met = 0
        """How many requests have met a fault so far."""
        self._guard = threading.Lock()
        self._faults: list[Fault] = []
        self._acts: list[tuple[str, Callable[[], object]]] = []
        self._share = 0.0
        self._statuses: tuple[int, ...] = ()
        self._lot = random.Random(0)

    def fail_next(self, count: int, status: int = 503, match: str = "", skip: int = 0) -> None:
        """After `skip` such requests, the next `count` have no effect and get `status` (0: no answer)."""
        self._faults.append(Fault(count, match, status, False, skip))

    def lose_answer(self, count: int = 1, match: str = "", status: int = 0, skip: int = 0) -> None:
        """After `skip` such requests, the next `count` take effect, but get `status` instead of their answer (0: no answer)."""
        self._faults.append(Fault(count, match, status, True, skip))

    def before_next(self, act: Callable[[], object], match: str = "") -> None:
        """The next such request is not looked at before `act` has been called, which may speak to the server."""
        with self._guard:
            self._acts.append((match, act))

    def be_flaky(self, share: float, seed: int, *statuses: int) -> None:
        """From now on this share of all requests, drawn by lot, meet one of the statuses, with or without their effect."""
        with self._guard:
            self._share, self._statuses, self._lot = share, statuses, random.Random(seed)

    def mend(self) -> None:
        """From now on there is no fault."""
        with self._guard:
            self._faults.clear()
            self._acts.clear()
            self._share = 0.0

    def act_before(self, line: str) -> None:
        """Does what is to be done before this request. To be called without a lock."""
        with self._guard:
            found = next(((match, act) for match, act in self._acts if match in line), None)
            if found:
                self._acts.remove(found)
        if found:
            found[1]()

    def fault_of(self, line: str) -> Fault | None:
        """The fault that this request meets."""
        with self._guard:
            fault = next((fault for fault in self._faults if fault.left and fault.match in line), None)
            if fault and fault.skip:
                fault.skip -= 1
                return None
            if fault:
                fault.left -= 1
            elif self._lot.random() < self._share:
                fault = Fault(0, "", self._lot.choice(self._statuses), self._lot.random() < 0.5)
            self.met += fault is not None
            return fault
