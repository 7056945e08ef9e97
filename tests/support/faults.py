"""Fault injection for the stand-ins of services, request by request."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass

ANY = 1_000_000_000
"""As a count: every request from now on."""


@dataclass
class Fault:
    """A fault that a stand-in injects into matching requests."""

    left: int
    """Requests that still meet it."""
    match: str
    """Part of `METHOD /path?query`."""
    status: int
    """HTTP status of the response; 0 drops the connection without one."""
    takes_effect: bool
    """Whether the request is carried out all the same."""
    skip: int = 0
    """Matching requests to let pass first."""


class Faults:
    """Faults that a test sets and a stand-in's server applies. Thread-safe.

    In all methods `match` is a part of `METHOD /path?query`; the empty string matches every request.
    """

    def __init__(self) -> None:
        self.met = 0
        """Number of requests that have met a fault so far."""
        self._guard = threading.Lock()
        self._faults: list[Fault] = []
        self._acts: list[tuple[str, Callable[[], object]]] = []
        self._share = 0.0
        self._statuses: tuple[int, ...] = ()
        self._lot = random.Random(0)

    def fail_next(self, count: int, status: int = 503, match: str = "", skip: int = 0) -> None:
        """Let `skip` matching requests pass, then fail the next `count` without effect. Status 0 drops the connection."""
        self._faults.append(Fault(count, match, status, False, skip))

    def lose_answer(self, count: int = 1, match: str = "", status: int = 0, skip: int = 0) -> None:
        """Let `skip` matching requests pass, then carry out the next `count` but replace their response. Status 0 drops it."""
        self._faults.append(Fault(count, match, status, True, skip))

    def before_next(self, act: Callable[[], object], match: str = "") -> None:
        """Call `act` before the next matching request is handled. `act` may send requests to the server itself."""
        with self._guard:
            self._acts.append((match, act))

    def be_flaky(self, share: float, seed: int, *statuses: int) -> None:
        """Make this share of all requests, drawn at random, fail with one of the statuses, with or without effect."""
        with self._guard:
            self._share, self._statuses, self._lot = share, statuses, random.Random(seed)

    def restore(self) -> None:
        """Remove all faults and hooks."""
        with self._guard:
            self._faults.clear()
            self._acts.clear()
            self._share = 0.0

    def act_before(self, line: str) -> None:
        """Run the hook that is set for this request, if any. The caller must hold no lock."""
        with self._guard:
            hook = next(((match, act) for match, act in self._acts if match in line), None)
            if hook:
                self._acts.remove(hook)
        if hook:
            hook[1]()

    def fault_of(self, line: str) -> Fault | None:
        """Return the fault for this request, if any, and count it."""
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
