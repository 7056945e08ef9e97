"""Marks: what an index keeps of each event, and what it takes to know the event again without its payload."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from schemas.fingerprints import HASH_BYTES

DIGEST_BYTES = 8

MARK = np.dtype([("id", f"V{HASH_BYTES}"), ("at", ">u4"), ("digest", f"V{DIGEST_BYTES}")])
"""One mark: the id's hash, the microseconds of received_at since its hour began, and the payload's digest."""

MARK_BYTES = MARK.itemsize


def digest_of(data: bytes) -> bytes:
    """The first 8 bytes of SHA-256 over a payload: tells whether two messages with one id say the same.

    Nobody gains by making two payloads that share a digest: the second is then called a duplicate, as if it were the same.
    """
    return sha256(data).digest()[:DIGEST_BYTES]


mark: Callable[[bytes, int, bytes], bytes] = struct.Struct(f">{HASH_BYTES}sI{DIGEST_BYTES}s").pack
"""One mark's bytes, from the id's hash, the microseconds since the hour began (0 to 3,599,999,999) and the payload's digest."""


def split(marks: bytes) -> list[bytes]:
    """Packed marks as a list. ValueError when they are no whole number."""
    if len(marks) % MARK_BYTES:
        raise ValueError(f"{len(marks)} bytes are no whole number of {MARK_BYTES}-byte marks")
    return [marks[start : start + MARK_BYTES] for start in range(0, len(marks), MARK_BYTES)]


def hashes(marks: bytes) -> bytes:
    """The id hashes of packed marks, packed. ValueError when they are no whole number."""
    return np.frombuffer(marks, MARK)["id"].tobytes()


def ordered(marks: bytes) -> bytes:
    """Packed marks in the order of their bytes, and so of their ids."""
    # As strings of a fixed length: numpy cuts zeros off their ends, and puts them back.
    return np.sort(np.frombuffer(marks, f"S{MARK_BYTES}")).tobytes()


def same_payload(one: bytes, other: bytes) -> bool:
    """Whether two marks are of the same payload."""
    return one[-DIGEST_BYTES:] == other[-DIGEST_BYTES:]


@dataclass(frozen=True)
class Found:
    """What is known of marks, in their order. repeated: the id is delivered, within the horizon; conflicting: and nowhere with
    the same payload; held: an hour that holds it, in hours since 1970, its own where that does, or where none does."""

    repeated: NDArray[np.bool_]
    conflicting: NDArray[np.bool_]
    held: NDArray[np.int64]
