"""Agreement with Apache's Avro library on any schema and value that a contract allows, and on no others."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.envelope import AVRO, JSON
from schemas.outcomes import Rejected
from schemas.transcoder import transcoder
from tests.support.avro_cases import apache_read, apache_write, records
from tests.support.payloads import contract_for, decode

pytestmark = pytest.mark.filterwarnings("ignore::avro.errors.IgnoredLogicalType")  # Apache's library knows no local times


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_what_comes_as_json_is_what_apaches_library_reads_from_our_rows(draw: st.DataObject) -> None:
    case = draw.draw(records())
    value = draw.draw(case.values)
    contract = contract_for(case)
    data = json.dumps(value.json).encode()
    assert decode(contract, contract, data, JSON) == (value.datum, None)
    assert apache_read(json.dumps(case.schema), transcoder(contract, contract, JSON)(data)[0]) == value.plain


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_what_apaches_library_writes_is_what_we_read(draw: st.DataObject) -> None:
    case = draw.draw(records())
    value = draw.draw(case.values)
    contract = contract_for(case)
    data = apache_write(json.dumps(case.schema), value.plain)
    assert decode(contract, contract, data, AVRO) == (value.datum, None)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_spoiled_payloads_are_refused_or_fit_the_schema_and_raise_nothing_else(draw: st.DataObject) -> None:
    case = draw.draw(records())
    value = draw.draw(case.values)
    contract = contract_for(case)
    content_type = draw.draw(st.sampled_from([JSON, AVRO]))
    whole = json.dumps(value.json).encode() if content_type == JSON else apache_write(json.dumps(case.schema), value.plain)
    at = draw.draw(st.integers(0, len(whole)))
    data = whole[:at] + draw.draw(st.binary(max_size=3)) + whole[at + draw.draw(st.integers(0, 3)) :]
    with suppress(Rejected):
        decode(contract, contract, data, content_type)
