"""Packs and their count keys survive serialization."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from schemas.fingerprints import Tally, total
from storage.buckets.id_index import index_entry
from transforms.decode.packs import Pack, count_key_of, parse_count_key

entries = st.builds(
    index_entry, st.binary(min_size=16, max_size=16), st.integers(0, 2**32 - 1), st.binary(min_size=8, max_size=8)
)
pack_ids = st.uuids().map(lambda uuid: uuid.hex)
records = st.lists(st.tuples(entries, st.binary(max_size=40)), max_size=8)


@given(pack_ids, st.text(max_size=30), records)
def test_pack__round_trip(pack_id: str, count_key: str, given_records: list[tuple[bytes, bytes]]) -> None:
    pack = Pack.of(pack_id, count_key, [entry for entry, _ in given_records], [record for _, record in given_records])
    again = Pack.from_bytes(pack.to_bytes())
    assert again == pack
    assert list(again) == given_records
    assert again.received == total(Tally.of_hashes(entry[:16]) for entry, _ in given_records)


@given(st.text(max_size=30), st.sampled_from(["", "not_json"]))
def test_label_of__round_trip_of_any_type(event_type: str, reason: str) -> None:
    assert parse_count_key(count_key_of(event_type, reason)) == (event_type, reason)
