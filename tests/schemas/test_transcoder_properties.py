"""Agreement with Apache's Avro library, for all schemas and values that a contract allows, and no others."""

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

# Apache's library does not support local times.
pytestmark = pytest.mark.filterwarnings("ignore::avro.errors.IgnoredLogicalType")


@settings(max_examples=80)
@given(st.data())
def test_transcoder__writes_records_that_apache_reads(draw: st.DataObject) -> None:
    """Apache's library reads the values of a JSON payload from the record."""
    case = draw.draw(records())
    value = draw.draw(case.values)
    contract = contract_for(case)
    data = json.dumps(value.json).encode()
    assert decode(contract, contract, data, JSON) == (value.datum, None)
    assert apache_read(json.dumps(case.schema), transcoder(contract, contract, JSON)(data)[0]) == value.plain


@settings(max_examples=60)
@given(st.data())
def test_transcoder__reads_payloads_that_apache_writes(draw: st.DataObject) -> None:
    case = draw.draw(records())
    value = draw.draw(case.values)
    contract = contract_for(case)
    data = apache_write(json.dumps(case.schema), value.plain)
    assert decode(contract, contract, data, AVRO) == (value.datum, None)


@settings(max_examples=80)
@given(st.data())
def test_transcoder__raises_only_rejected(draw: st.DataObject) -> None:
    """A corrupted payload is rejected or still fits the schema; no other exception is raised."""
    case = draw.draw(records())
    value = draw.draw(case.values)
    contract = contract_for(case)
    content_type = draw.draw(st.sampled_from([JSON, AVRO]))
    whole = json.dumps(value.json).encode() if content_type == JSON else apache_write(json.dumps(case.schema), value.plain)
    position = draw.draw(st.integers(0, len(whole)))
    data = whole[:position] + draw.draw(st.binary(max_size=3)) + whole[position + draw.draw(st.integers(0, 3)) :]
    with suppress(Rejected):
        decode(contract, contract, data, content_type)
