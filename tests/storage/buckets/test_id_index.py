"""Index of event ids."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.buckets import HOUR
from storage.buckets.duplicate_refs import hour_number
from storage.buckets.id_index import ENTRY_BYTES, IdIndex, digest_of, hashes, index_entry, ordered, split

ids = st.binary(min_size=16, max_size=16)
digests = st.binary(min_size=8, max_size=8)
offsets = st.integers(0, 3_599_999_999)
# Entries of few different bytes, among them zeros, which numpy might take for the end of a string.
few = st.lists(st.lists(st.sampled_from([0, 1, 255]), min_size=ENTRY_BYTES, max_size=ENTRY_BYTES).map(bytes), max_size=20)


@given(st.lists(st.tuples(ids, offsets, digests), max_size=20))
def test_split__packed_entries(given_entries: list[tuple[bytes, int, bytes]]) -> None:
    """Packed entries are split again, and their fields are at their places."""
    packed = [index_entry(*fields) for fields in given_entries]
    assert split(b"".join(packed)) == packed
    assert hashes(b"".join(packed)) == b"".join(id_hash for id_hash, _, _ in given_entries)
    assert [int.from_bytes(entry[16:20], "big") for entry in packed] == [offset for _, offset, _ in given_entries]


@given(few)
def test_ordered__by_bytes(given_entries: list[bytes]) -> None:
    """Entries are sorted by their bytes, also those with zeros at their end."""
    assert ordered(b"".join(given_entries)) == b"".join(sorted(given_entries))


@pytest.mark.parametrize("read", [split, hashes, ordered])
def test_split__incomplete_entry(read) -> None:
    """Packed entries with an incomplete one are refused."""
    with pytest.raises(ValueError, match=r"."):
        read(bytes(ENTRY_BYTES + 1))


def test_digest_of__sha_256() -> None:
    """A digest is the first 8 bytes of the SHA-256."""
    assert digest_of(b"x") == sha256(b"x").digest()[:8]


START = datetime(2026, 1, 31, tzinfo=UTC)
SECOND = 1_000_000

# Some share their first half, the key by which the index searches, but not their second half.
ids = st.sampled_from([b"a" * 16, b"a" * 8 + b"b" * 8, b"\x00" * 16, b"\xff" * 16])
events = st.tuples(ids, st.integers(0, 5), st.sampled_from([0, 1, 3599 * SECOND]), st.sampled_from([b"1" * 8, b"2" * 8]))


def find(index: IdIndex, event: tuple[bytes, int, int, bytes]) -> tuple[bool, bool]:
    digest, hour, offset, payload = event
    lookup = index.find(START + hour * HOUR, index_entry(digest, offset, payload))
    return bool(lookup.delivered[0]), bool(lookup.conflicting[0])


@given(st.lists(events, max_size=20), events, st.sampled_from([1, 2, 24]))
def test_find__delivered_and_conflicting(
    given_events: list[tuple[bytes, int, int, bytes]], queried: tuple[bytes, int, int, bytes], hours: int
) -> None:
    """An id is delivered if it is indexed within the horizon; it conflicts if none there has its payload."""
    index = IdIndex(timedelta(hours=hours))
    for digest, hour, offset, payload in given_events:
        index.add(START + hour * HOUR, index_entry(digest, offset, payload))

    def time(event: tuple[bytes, int, int, bytes]) -> timedelta:
        return timedelta(hours=event[1], microseconds=event[2])

    near = [
        event for event in given_events if event[0] == queried[0] and abs(time(event) - time(queried)) < timedelta(hours=hours)
    ]
    assert find(index, queried) == (bool(near), bool(near) and queried[3] not in {event[3] for event in near})


@given(st.lists(events, max_size=20), events, st.sampled_from([1, 2, 24]))
def test_find__hour(
    given_events: list[tuple[bytes, int, int, bytes]], queried: tuple[bytes, int, int, bytes], hours: int
) -> None:
    """The hour contains the id within the horizon, and is the entry's own if that contains it."""
    index = IdIndex(timedelta(hours=hours))
    for digest, hour, offset, payload in given_events:
        index.add(START + hour * HOUR, index_entry(digest, offset, payload))
    lookup = index.find(START + queried[1] * HOUR, index_entry(queried[0], *queried[2:]))
    time = queried[1] * HOUR + timedelta(microseconds=queried[2])
    containing = {
        hour
        for digest, hour, offset, _ in given_events
        if digest == queried[0] and abs(hour * HOUR + timedelta(microseconds=offset) - time) < timedelta(hours=hours)
    }
    found = int(lookup.hour[0]) - hour_number(START)
    assert found == queried[1] if queried[1] in containing or not containing else found in containing


def test_find__many_entries() -> None:
    """The results of many entries are in the order of the entries."""
    index = IdIndex(timedelta(hours=1))
    index.add(START, b"".join(index_entry(bytes([number]) * 16, 0, bytes(8)) for number in range(0, 100, 2)))
    lookup = index.find(START, b"".join(index_entry(bytes([number]) * 16, 5, bytes(8)) for number in range(99, -1, -1)))
    assert lookup.delivered.tolist() == [number % 2 == 0 for number in range(99, -1, -1)]
    assert not lookup.conflicting.any()


def test_find__nothing() -> None:
    """A look-up of no entry, and one in an empty index, find nothing."""
    assert IdIndex(timedelta(hours=1)).find(START, b"").delivered.tolist() == []
    assert IdIndex(timedelta(hours=1)).find(START, index_entry(bytes(16), 0, bytes(8))).delivered.tolist() == [False]
