"""Fingerprints differ for different sets of ids, in whatever order and parts the ids are counted."""

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
def test_tally__is_independent_of_order(ids: list[str], random: object) -> None:
    shuffled = list(ids)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert Tally.of_ids(shuffled) == Tally.of_ids(ids)


@given(IDS, IDS)
def test_tally__can_be_added_and_subtracted(left: list[str], right: list[str]) -> None:
    assert Tally.of_ids(left) + Tally.of_ids(right) == Tally.of_ids(left + right)
    assert Tally.of_ids(left + right) - Tally.of_ids(right) == Tally.of_ids(left)


@given(IDS, IDS)
def test_fingerprint__differs_for_different_multisets(left: list[str], right: list[str]) -> None:
    same = Counter(left) == Counter(right)
    assert (Tally.of_ids(left).fingerprint == Tally.of_ids(right).fingerprint) == same


def test_fingerprint__shows_a_loss_and_a_duplicate() -> None:
    """A lost id and a duplicated one do not cancel, although the count is the same."""
    whole, changed = Tally.of_ids(["a", "b", "c"]), Tally.of_ids(["a", "a", "c"])
    assert whole.count == changed.count
    assert whole.fingerprint != changed.fingerprint


@given(st.lists(IDS, max_size=4))
def test_total__is_the_tally_of_all_ids(lists: list[list[str]]) -> None:
    assert total(map(Tally.of_ids, lists)) == Tally.of_ids([event_id for ids in lists for event_id in ids])


@given(IDS)
def test_from_json__inverts_to_json(ids: list[str]) -> None:
    assert Tally.from_json(Tally.of_ids(ids).to_json()) == Tally.of_ids(ids)


def test_id_hash__is_a_prefix_of_sha256() -> None:
    digest = hashlib.sha256(b"one").hexdigest()[:32]
    assert id_hash("one").hex() == digest
    assert Tally.of_ids(["one"]).lanes == tuple(int(digest[8 * lane : 8 * lane + 8], 16) for lane in range(4))
    assert Tally.of_ids([]) == Tally() == Tally(0, (0, 0, 0, 0))


def test_tally__wraps_at_2_to_the_64() -> None:
    edge = Tally(1, (2**64 - 1, 0, 0, 0))
    assert (edge + Tally(1, (2, 0, 0, 0))).lanes == (1, 0, 0, 0)
    assert (Tally() - Tally(1, (1, 0, 0, 0))).lanes == (2**64 - 1, 0, 0, 0)


def test_tally__equals_that_of_sql() -> None:
    ids = [f"event-{number}" for number in range(500)]
    lanes = ", ".join(f"sum(('0x' || substr(sha256(id), {1 + 8 * lane}, 8))::BIGINT)" for lane in range(4))
    row = duckdb.execute(f"SELECT count(*), {lanes} FROM (SELECT unnest(?) AS id)", [ids]).fetchone()
    tally = Tally.of_ids(ids)
    assert row == (tally.count, *tally.lanes)


def test_of_hashes__rejects_a_truncated_hash() -> None:
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
def test_from_json__rejects_other_values(value: object) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Tally.from_json(value)
