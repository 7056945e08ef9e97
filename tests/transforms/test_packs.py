from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from transforms.packs import Pack, label_of, read_label

records = st.lists(st.tuples(st.binary(min_size=16, max_size=16), st.binary(max_size=40)), max_size=8)


@given(st.text(max_size=30), records)
def test_a_pack_survives_its_bytes(label: str, given_records: list[tuple[bytes, bytes]]) -> None:
    ids = b"".join(digest for digest, _ in given_records)
    pack = Pack(label, ids, tuple(len(record) for _, record in given_records), b"".join(record for _, record in given_records))
    again = Pack.from_bytes(pack.to_bytes())
    assert again == pack
    assert list(again) == given_records


@given(st.text(max_size=30), st.sampled_from(["", "not_json"]))
def test_a_label_survives_whatever_a_client_claims_as_its_type(kind: str, reason: str) -> None:
    assert read_label(label_of(kind, reason)) == (kind, reason)
