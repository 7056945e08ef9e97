from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from io import BytesIO
from random import Random
from uuid import UUID

import fastavro
import pytest

from publisher.music import MAKERS, to_json
from publisher.simulate import EVENT_TYPES, UNKNOWN_TYPE, Simulated, expected, hours_of, simulate
from schemas.envelope import AVRO, JSON
from schemas.outcomes import Reason, Rejected
from schemas.registry.contracts import load_contracts
from schemas.transcoder import transcoder

contracts = lru_cache(load_contracts)
END = datetime(2026, 1, 31, 9, tzinfo=UTC)
HOURS = [END - timedelta(hours=3), END - timedelta(hours=2), END - timedelta(hours=1)]
BROKEN = {
    Reason.NOT_JSON,
    Reason.MISSING_FIELD,
    Reason.WRONG_TYPE,
    Reason.BROKEN_AVRO,
    Reason.OUT_OF_RANGE,
    Reason.INVALID_UTF8,
    Reason.EMPTY_PAYLOAD,
}


@pytest.fixture(scope="module")
def messages() -> list[Simulated]:
    return list(simulate(1, 20_000, 3, END))


def ruling(message: Simulated) -> Reason | None:
    """Why the receiver's own rules refuse a message, or None."""
    if message.event_type is None:
        return Reason.NO_TYPE
    try:
        version = None if message.schema_version is None else str(message.schema_version)
        contract = contracts().get(message.event_type, version)
        transcoder(contract, contracts().newest(message.event_type), message.content_type or JSON)(message.data)
    except Rejected as rejected:
        return rejected.reason
    return None


def test_equal_arguments_make_equal_messages_and_other_ones_have_other_ids(messages: list[Simulated]) -> None:
    assert list(simulate(1, 20_000, 3, END)) == messages
    ids = {message.event_id for message in messages}
    for other in (simulate(2, 500, 3, END), simulate(1, 500, 3, END - timedelta(hours=1))):
        assert ids.isdisjoint(message.event_id for message in other)


def test_the_number_of_events_is_the_number_of_ids_and_copies_come_on_top(messages: list[Simulated]) -> None:
    assert len({message.event_id for message in messages}) == 20_000
    assert sum(not message.copy for message in messages) == 20_000
    assert 100 < sum(message.copy for message in messages) < 300


def test_every_message_lies_within_the_hours_and_was_sent_shortly_before(messages: list[Simulated]) -> None:
    assert all(END - timedelta(hours=3) <= message.received_at < END for message in messages)
    assert all(timedelta() < message.received_at - message.sent_at < timedelta(seconds=3) for message in messages)


def test_a_copy_is_the_same_in_all_but_being_one_and_follows_in_the_same_round(messages: list[Simulated]) -> None:
    first: dict[str, Simulated] = {}
    for message in messages:
        if message.copy:
            assert message == Simulated(**{**vars(first[message.event_id]), "copy": True})
        else:
            first[message.event_id] = message
    assert {message.round for message in messages if message.copy} == {1, 2}


def test_each_message_is_refused_for_the_reason_that_it_names_and_the_good_ones_are_taken() -> None:
    checked = list(simulate(5, 4_000, 3, END))
    assert [ruling(message) for message in checked] == [message.reason for message in checked]


def test_all_that_goes_wrong_is_there_in_the_shares_that_are_told(messages: list[Simulated]) -> None:
    reasons = Counter(message.reason for message in messages)
    assert set(reasons) == {None, *BROKEN, Reason.UNKNOWN_TYPE, Reason.NO_TYPE}
    assert 30 < sum(reasons[reason] for reason in BROKEN) < 120
    assert 20 < reasons[Reason.UNKNOWN_TYPE] < 80
    assert {message.event_type for message in messages if message.reason is Reason.UNKNOWN_TYPE} == {UNKNOWN_TYPE}
    assert {message.event_type is None for message in messages if message.reason is Reason.NO_TYPE} == {True}


def test_all_that_is_right_but_rare_is_there(messages: list[Simulated]) -> None:
    good = [message for message in messages if message.reason is None]
    in_avro = [message for message in good if message.content_type == AVRO]
    assert {message.event_type for message in in_avro} == set(EVENT_TYPES)
    assert {message.schema_version for message in good if message.event_type == "track_played"} == {None, 1, 2}
    as_json = [json.loads(message.data) for message in good if message.content_type != AVRO]
    assert 100 < sum("experiment" in payload for payload in as_json) < 800


def test_a_message_in_avro_is_one_of_the_version_that_it_names(messages: list[Simulated]) -> None:
    seen = set()
    for message in messages:
        if message.content_type == AVRO and message.event_type == "track_played" and message.reason is None:
            contract = contracts().get("track_played", str(message.schema_version or 2))
            stream = BytesIO(message.data)
            payload = fastavro.schemaless_reader(stream, contract.schema, None)
            assert isinstance(payload, dict)
            assert stream.tell() == len(message.data)
            assert ("quality" in payload) == (contract.version == 2)
            seen.add(contract.version)
    assert seen == {1, 2}


def test_some_of_a_few_buckets_are_held_back_and_all_of_them_are_good(messages: list[Simulated]) -> None:
    late = [message for message in messages if message.round == 2]
    assert 120 < sum(not message.copy for message in late) < 320
    assert {message.reason for message in late} == {None}
    assert len({(message.event_type, message.received_at.hour) for message in late}) == 4


def test_two_types_are_silent_in_one_hour_each() -> None:
    rows = expected(1, 20_000, 3, END)
    assert [key for key, row in rows.items() if row.messages == 0] == [
        ("playlist_created", HOURS[2]),
        ("subscription_changed", HOURS[0]),
    ]


def test_some_types_happen_much_more_often_than_others(messages: list[Simulated]) -> None:
    counts = Counter(message.event_type for message in messages)
    assert counts["track_played"] > 6_000
    assert 20 < counts["subscription_changed"] < 200


def test_what_is_expected_is_what_delivering_the_messages_one_by_one_gives(messages: list[Simulated]) -> None:
    rows = expected(1, 20_000, 3, END)
    delivered: dict[tuple[str, datetime], set[str]] = {}
    outcome: Counter[tuple[str, datetime, str]] = Counter()
    for message in sorted(messages, key=lambda message: message.round):
        hour = message.received_at.replace(minute=0, second=0, microsecond=0)
        key = message.event_type or "", hour
        rows_there = delivered.setdefault(key, set())
        if message.reason is not None:
            outcome[*key, str(message.reason)] += 1
        elif message.event_id in rows_there:
            outcome[*key, "duplicate"] += 1
        else:
            rows_there.add(message.event_id)
            outcome[*key, "late"] += message.round == 2
    assert {key: row.delivered for key, row in rows.items() if row.delivered} == {
        key: len(there) for key, there in delivered.items() if there
    }
    for (event_type, hour), row in rows.items():
        assert row.duplicates == outcome[event_type, hour, "duplicate"]
        assert row.late == outcome[event_type, hour, "late"]
        assert dict(row.dead) == {reason: n for reason in Reason if (n := outcome[event_type, hour, reason])}
        assert row.messages == row.delivered + row.duplicates + row.dead.total()
        assert row.events == row.messages - row.duplicates
    assert sum(row.messages for row in rows.values()) == len(messages)
    assert {key for key in rows if key[0] in EVENT_TYPES} == {(kind, hour) for kind in EVENT_TYPES for hour in HOURS}


@pytest.mark.parametrize("hours", [1, 2, 50])
def test_any_number_of_hours_and_events_will_do(hours: int) -> None:
    for events in (1, 300):
        made = list(simulate(3, events, hours, END))
        assert len({message.event_id for message in made}) == events
        assert all(END - timedelta(hours=hours) <= message.received_at < END for message in made)


def test_an_end_within_an_hour_is_refused() -> None:
    with pytest.raises(ValueError, match="not the start of an hour"):
        hours_of(3, END + timedelta(minutes=1))


def test_the_contracts_use_every_form_that_is_to_be_shown() -> None:
    text = json.dumps([contracts().newest(kind).schema for kind in EVENT_TYPES])
    for form in ("record", "array", "map", "enum", "date", "timestamp-micros", "decimal", "uuid"):
        assert f'"{form}"' in text


@pytest.mark.parametrize("event_type", EVENT_TYPES)
def test_a_maker_fills_the_fields_of_the_newest_contract(event_type: str) -> None:
    fields = [one["name"] for one in contracts().newest(event_type).schema["fields"]]
    assert list(MAKERS[event_type][1](Random(1), END)) == fields


def test_json_has_the_forms_that_contracts_want() -> None:
    payload: dict[str, object] = {
        "at": datetime(2026, 1, 31, 10, 0, 0, 250_000, tzinfo=UTC),
        "on": date(2026, 1, 31),
        "price": Decimal("0.010000"),
        "key": b"\x00\xff",
        "id": UUID("0D6A4F0E-6F0B-4A51-8A9C-3F6FF0B6B1D2"),
    }
    assert json.loads(to_json(payload)) == {
        "at": "2026-01-31T10:00:00.250000Z",
        "on": "2026-01-31",
        "price": "0.010000",
        "key": "AP8=",
        "id": "0d6a4f0e-6f0b-4a51-8a9c-3f6ff0b6b1d2",
    }
