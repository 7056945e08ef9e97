from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.buckets.id_index import MARK_BYTES, digest_of, hashes, mark, ordered, split

ids = st.binary(min_size=16, max_size=16)
digests = st.binary(min_size=8, max_size=8)
offsets = st.integers(0, 3_599_999_999)
# Few different bytes, zeros among them: what numpy might take for the end of a string.
few = st.lists(st.lists(st.sampled_from([0, 1, 255]), min_size=MARK_BYTES, max_size=MARK_BYTES).map(bytes), max_size=20)


@given(st.lists(st.tuples(ids, offsets, digests), max_size=20))
def test_marks_are_packed_and_found_again(given_marks: list[tuple[bytes, int, bytes]]) -> None:
    packed = [mark(*one) for one in given_marks]
    assert split(b"".join(packed)) == packed
    assert hashes(b"".join(packed)) == b"".join(one[0] for one in given_marks)
    assert [int.from_bytes(one[16:20], "big") for one in packed] == [offset for _, offset, _ in given_marks]


@given(few)
def test_marks_are_put_in_the_order_of_their_bytes(given_marks: list[bytes]) -> None:
    assert ordered(b"".join(given_marks)) == b"".join(sorted(given_marks))


@pytest.mark.parametrize("read", [split, hashes, ordered])
def test_marks_that_are_cut_are_refused(read) -> None:
    with pytest.raises(ValueError, match=r"."):
        read(bytes(MARK_BYTES + 1))


def test_a_digest_is_the_first_bytes_of_sha_256() -> None:
    assert digest_of(b"x") == sha256(b"x").digest()[:8]
