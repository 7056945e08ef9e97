from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from schemas.fingerprints import Tally, total
from storage.buckets.id_index import index_entry
from transforms.decode.packs import Pack, label_of, read_label

entries = st.builds(
    index_entry, st.binary(min_size=16, max_size=16), st.integers(0, 2**32 - 1), st.binary(min_size=8, max_size=8)
)
names = st.uuids().map(lambda one: one.hex)
records = st.lists(st.tuples(entries, st.binary(max_size=40)), max_size=8)


@given(names, st.text(max_size=30), records)
def test_a_pack_survives_its_bytes(name: str, label: str, given_records: list[tuple[bytes, bytes]]) -> None:
    pack = Pack.of(name, label, [one for one, _ in given_records], [record for _, record in given_records])
    again = Pack.from_bytes(pack.to_bytes())
    assert again == pack
    assert list(again) == given_records
    assert again.received == total(Tally.of_hashes(one[:16]) for one, _ in given_records)


@given(st.text(max_size=30), st.sampled_from(["", "not_json"]))
def test_a_label_survives_whatever_a_client_claims_as_its_type(kind: str, reason: str) -> None:
    assert read_label(label_of(kind, reason)) == (kind, reason)
