"""Shards: ranges of id hashes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.shards import Shard

counts = st.sampled_from([1, 2, 4, 8, 16, 32, 64, 128, 256])


@given(st.binary(min_size=16, max_size=16), counts, counts)
def test_overlaps__shards_of_the_same_hash(digest: bytes, first: int, second: int) -> None:
    """The counts of the shards do not matter."""
    assert Shard.of(digest, first).overlaps(Shard.of(digest, second))


@given(counts, counts, st.data())
def test_overlaps__only_if_a_first_byte_is_in_both(first: int, second: int, data: st.DataObject) -> None:
    digests = [bytes([byte]) + bytes(15) for byte in range(256)]
    sharing = {(Shard.of(digest, first), Shard.of(digest, second)) for digest in digests}
    left, right = Shard(data.draw(st.integers(0, first - 1)), first), [Shard(index, second) for index in range(second)]
    assert [left.overlaps(shard) for shard in right] == [(left, shard) in sharing for shard in right]
    assert [shard.overlaps(left) for shard in right] == [left.overlaps(shard) for shard in right]


@given(counts, st.data())
def test_parse__inverts_str(count: int, data: st.DataObject) -> None:
    shard = Shard(data.draw(st.integers(0, count - 1)), count)
    assert Shard.parse(str(shard)) == shard


@pytest.mark.parametrize(("index", "count"), [(0, 0), (0, 3), (0, 512), (4, 4), (-1, 4)])
def test_shard__rejects_invalid_numbers(index: int, count: int) -> None:
    with pytest.raises(ValueError, match="shard"):
        Shard(index, count)
