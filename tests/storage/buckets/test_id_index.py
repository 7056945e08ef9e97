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
# Few different bytes, zeros among them: what numpy might take for the end of a string.
few = st.lists(st.lists(st.sampled_from([0, 1, 255]), min_size=ENTRY_BYTES, max_size=ENTRY_BYTES).map(bytes), max_size=20)


@given(st.lists(st.tuples(ids, offsets, digests), max_size=20))
def test_entries_are_packed_and_found_again(given_entries: list[tuple[bytes, int, bytes]]) -> None:
    packed = [index_entry(*one) for one in given_entries]
    assert split(b"".join(packed)) == packed
    assert hashes(b"".join(packed)) == b"".join(one[0] for one in given_entries)
    assert [int.from_bytes(one[16:20], "big") for one in packed] == [offset for _, offset, _ in given_entries]


@given(few)
def test_entries_are_put_in_the_order_of_their_bytes(given_entries: list[bytes]) -> None:
    assert ordered(b"".join(given_entries)) == b"".join(sorted(given_entries))


@pytest.mark.parametrize("read", [split, hashes, ordered])
def test_entries_that_are_cut_are_refused(read) -> None:
    with pytest.raises(ValueError, match=r"."):
        read(bytes(ENTRY_BYTES + 1))


def test_a_digest_is_the_first_bytes_of_sha_256() -> None:
    assert digest_of(b"x") == sha256(b"x").digest()[:8]


START = datetime(2026, 1, 31, tzinfo=UTC)
SECOND = 1_000_000

# Ids that share their first half: what is searched by is not all that has to be the same.
ids = st.sampled_from([b"a" * 16, b"a" * 8 + b"b" * 8, b"\x00" * 16, b"\xff" * 16])
events = st.tuples(ids, st.integers(0, 5), st.sampled_from([0, 1, 3599 * SECOND]), st.sampled_from([b"1" * 8, b"2" * 8]))


def find(index: IdIndex, event: tuple[bytes, int, int, bytes]) -> tuple[bool, bool]:
    digest, hour, offset, payload = event
    lookup = index.find(START + hour * HOUR, index_entry(digest, offset, payload))
    return bool(lookup.delivered[0]), bool(lookup.conflicting[0])


@given(st.lists(events, max_size=20), events, st.sampled_from([1, 2, 24]))
def test_an_id_is_delivered_if_one_within_the_horizon_is_known_and_conflicts_if_none_of_these_has_its_payload(
    given_events: list[tuple[bytes, int, int, bytes]], asked: tuple[bytes, int, int, bytes], hours: int
) -> None:
    index = IdIndex(timedelta(hours=hours))
    for digest, hour, offset, payload in given_events:
        index.add(START + hour * HOUR, index_entry(digest, offset, payload))

    def moment(event: tuple[bytes, int, int, bytes]) -> timedelta:
        return timedelta(hours=event[1], microseconds=event[2])

    near = [one for one in given_events if one[0] == asked[0] and abs(moment(one) - moment(asked)) < timedelta(hours=hours)]
    assert find(index, asked) == (bool(near), bool(near) and asked[3] not in {one[3] for one in near})


@given(st.lists(events, max_size=20), events, st.sampled_from([1, 2, 24]))
def test_a_delivered_id_is_told_with_an_hour_that_holds_it_its_own_where_that_does(
    given_events: list[tuple[bytes, int, int, bytes]], asked: tuple[bytes, int, int, bytes], hours: int
) -> None:
    index = IdIndex(timedelta(hours=hours))
    for digest, hour, offset, payload in given_events:
        index.add(START + hour * HOUR, index_entry(digest, offset, payload))
    lookup = index.find(START + asked[1] * HOUR, index_entry(asked[0], *asked[2:]))
    moment = asked[1] * HOUR + timedelta(microseconds=asked[2])
    holding = {
        hour
        for digest, hour, offset, _ in given_events
        if digest == asked[0] and abs(hour * HOUR + timedelta(microseconds=offset) - moment) < timedelta(hours=hours)
    }
    told = int(lookup.hour[0]) - hour_number(START)
    assert told == asked[1] if asked[1] in holding or not holding else told in holding


def test_many_are_asked_for_at_once_in_their_order() -> None:
    index = IdIndex(timedelta(hours=1))
    index.add(START, b"".join(index_entry(bytes([number]) * 16, 0, bytes(8)) for number in range(0, 100, 2)))
    lookup = index.find(START, b"".join(index_entry(bytes([number]) * 16, 5, bytes(8)) for number in range(99, -1, -1)))
    assert lookup.delivered.tolist() == [number % 2 == 0 for number in range(99, -1, -1)]
    assert not lookup.conflicting.any()


def test_nothing_is_known_of_nothing() -> None:
    assert IdIndex(timedelta(hours=1)).find(START, b"").delivered.tolist() == []
    assert IdIndex(timedelta(hours=1)).find(START, index_entry(bytes(16), 0, bytes(8))).delivered.tolist() == [False]
