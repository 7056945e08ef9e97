from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.shards import Shard

counts = st.sampled_from([1, 2, 4, 8, 16, 32, 64, 128, 256])


@given(st.binary(min_size=16, max_size=16), counts, counts)
def test_the_shards_of_one_hash_meet_whatever_their_counts(digest: bytes, one: int, other: int) -> None:
    assert Shard.of(digest, one).overlaps(Shard.of(digest, other))


@given(counts, counts, st.data())
def test_shards_meet_exactly_when_some_first_byte_lies_in_both(one: int, other: int, data: st.DataObject) -> None:
    digests = [bytes([byte]) + bytes(15) for byte in range(256)]
    sharing = {(Shard.of(digest, one), Shard.of(digest, other)) for digest in digests}
    left, right = Shard(data.draw(st.integers(0, one - 1)), one), [Shard(j, other) for j in range(other)]
    assert [left.overlaps(shard) for shard in right] == [(left, shard) in sharing for shard in right]
    assert [shard.overlaps(left) for shard in right] == [left.overlaps(shard) for shard in right]


@given(counts, st.data())
def test_a_shard_survives_its_text(count: int, data: st.DataObject) -> None:
    shard = Shard(data.draw(st.integers(0, count - 1)), count)
    assert Shard.parse(str(shard)) == shard


@pytest.mark.parametrize(("index", "count"), [(0, 0), (0, 3), (0, 512), (4, 4), (-1, 4)])
def test_a_shard_that_can_not_be_is_refused(index: int, count: int) -> None:
    with pytest.raises(ValueError, match="shard"):
        Shard(index, count)
