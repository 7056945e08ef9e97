"""Fingerprints tell sets of ids apart, in whatever order and pieces they are counted."""

from __future__ import annotations

import hashlib
from collections import Counter

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.fingerprints import HASH_BYTES, Tally, id_hash, total

IDS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=6), max_size=12)


@given(IDS, st.randoms())
def test_the_order_does_not_matter(ids: list[str], random: object) -> None:
    shuffled = list(ids)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert Tally.of_ids(shuffled) == Tally.of_ids(ids)


@given(IDS, IDS)
def test_tallies_of_pieces_add_up_and_can_be_taken_away(left: list[str], right: list[str]) -> None:
    assert Tally.of_ids(left) + Tally.of_ids(right) == Tally.of_ids(left + right)
    assert Tally.of_ids(left + right) - Tally.of_ids(right) == Tally.of_ids(left)


@given(IDS, IDS)
def test_multisets_that_differ_have_different_fingerprints(left: list[str], right: list[str]) -> None:
    same = Counter(left) == Counter(right)
    assert (Tally.of_ids(left).fingerprint == Tally.of_ids(right).fingerprint) == same


def test_a_loss_and_a_duplicate_do_not_cancel() -> None:
    whole, spoiled = Tally.of_ids(["a", "b", "c"]), Tally.of_ids(["a", "a", "c"])
    assert whole.count == spoiled.count
    assert whole.fingerprint != spoiled.fingerprint


@given(st.lists(IDS, max_size=4))
def test_the_total_is_the_tally_of_all(lists: list[list[str]]) -> None:
    assert total(map(Tally.of_ids, lists)) == Tally.of_ids([one for ids in lists for one in ids])


@given(IDS)
def test_json_is_read_back(ids: list[str]) -> None:
    assert Tally.from_json(Tally.of_ids(ids).to_json()) == Tally.of_ids(ids)


def test_the_words_are_those_of_sha256() -> None:
    digest = hashlib.sha256(b"one").hexdigest()[:32]
    assert id_hash("one").hex() == digest
    assert Tally.of_ids(["one"]).lanes == tuple(int(digest[8 * lane : 8 * lane + 8], 16) for lane in range(4))
    assert Tally.of_ids([]) == Tally() == Tally(0, (0, 0, 0, 0))


def test_sums_wrap_at_2_to_the_64() -> None:
    edge = Tally(1, (2**64 - 1, 0, 0, 0))
    assert (edge + Tally(1, (2, 0, 0, 0))).lanes == (1, 0, 0, 0)
    assert (Tally() - Tally(1, (1, 0, 0, 0))).lanes == (2**64 - 1, 0, 0, 0)


def test_sql_counts_alike() -> None:
    ids = [f"event-{number}" for number in range(500)]
    lanes = ", ".join(f"sum(('0x' || substr(sha256(id), {1 + 8 * lane}, 8))::BIGINT)" for lane in range(4))
    row = duckdb.execute(f"SELECT count(*), {lanes} FROM (SELECT unnest(?) AS id)", [ids]).fetchone()
    tally = Tally.of_ids(ids)
    assert row == (tally.count, *tally.lanes)


def test_hashes_that_are_cut_are_refused() -> None:
    with pytest.raises(ValueError, match="not a multiple of the 16 bytes"):
        Tally.of_hashes(bytes(HASH_BYTES + 1))


WHOLE = Tally.of_ids(["a"]).to_json()


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {"count": 1},
        {**WHOLE, "count": "1"},
        {**WHOLE, "count": True},
        {**WHOLE, "fingerprint": None},
        {**WHOLE, "fingerprint": "0" * 63},
        {**WHOLE, "fingerprint": "x" * 64},
    ],
)
def test_what_is_no_tally_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Tally.from_json(value)
