"""Simulated traffic: its shares of faults, its expected outcomes, and its payloads."""

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


def rejection_reason(message: Simulated) -> Reason | None:
    """Return deliver's reason to refuse the message, or None."""
    if message.event_type is None:
        return Reason.NO_TYPE
    try:
        version = None if message.schema_version is None else str(message.schema_version)
        contract = contracts().get(message.event_type, version)
        transcoder(contract, contracts().newest(message.event_type), message.content_type or JSON)(message.data)
    except Rejected as rejected:
        return rejected.reason
    return None


def test_simulate__is_reproducible(messages: list[Simulated]) -> None:
    """Equal arguments make equal messages; others have other ids."""
    assert list(simulate(1, 20_000, 3, END)) == messages
    ids = {message.event_id for message in messages}
    for other in (simulate(2, 500, 3, END), simulate(1, 500, 3, END - timedelta(hours=1))):
        assert ids.isdisjoint(message.event_id for message in other)


def test_simulate__number_of_events(messages: list[Simulated]) -> None:
    """The number of events is the number of ids; copies come on top."""
    assert len({message.event_id for message in messages}) == 20_000
    assert sum(not message.copy for message in messages) == 20_000
    assert 100 < sum(message.copy for message in messages) < 300


def test_simulate__times(messages: list[Simulated]) -> None:
    """Every message is received within the hours, and was sent at most 3 seconds earlier."""
    assert all(END - timedelta(hours=3) <= message.received_at < END for message in messages)
    assert all(timedelta() < message.received_at - message.sent_at < timedelta(seconds=3) for message in messages)


def test_simulate__copies(messages: list[Simulated]) -> None:
    """A copy equals its original and follows it in the same part."""
    first: dict[str, Simulated] = {}
    for message in messages:
        if message.copy:
            assert message == Simulated(**{**vars(first[message.event_id]), "copy": True})
        else:
            first[message.event_id] = message
    assert {message.part for message in messages if message.copy} == {1, 2}


def test_simulate__reasons() -> None:
    """Each bad message is refused for the reason that it names, and valid ones are accepted."""
    checked = list(simulate(5, 4_000, 3, END))
    assert [rejection_reason(message) for message in checked] == [message.reason for message in checked]


def test_simulate__shares_of_faults(messages: list[Simulated]) -> None:
    """Every fault occurs, with the documented share."""
    reasons = Counter(message.reason for message in messages)
    assert set(reasons) == {None, *BROKEN, Reason.UNKNOWN_TYPE, Reason.NO_TYPE}
    assert 30 < sum(reasons[reason] for reason in BROKEN) < 120
    assert 20 < reasons[Reason.UNKNOWN_TYPE] < 80
    assert {message.event_type for message in messages if message.reason is Reason.UNKNOWN_TYPE} == {UNKNOWN_TYPE}
    assert {message.event_type is None for message in messages if message.reason is Reason.NO_TYPE} == {True}


def test_simulate__rare_valid_messages(messages: list[Simulated]) -> None:
    """Rare but valid messages occur: Avro of every type, old versions, and unknown fields."""
    good = [message for message in messages if message.reason is None]
    in_avro = [message for message in good if message.content_type == AVRO]
    assert {message.event_type for message in in_avro} == set(EVENT_TYPES)
    assert {message.schema_version for message in good if message.event_type == "track_played"} == {None, 1, 2}
    as_json = [json.loads(message.data) for message in good if message.content_type != AVRO]
    assert 100 < sum("experiment" in payload for payload in as_json) < 800


def test_simulate__avro_messages(messages: list[Simulated]) -> None:
    """A message in Avro follows the contract version that it names."""
    versions = set()
    for message in messages:
        if message.content_type == AVRO and message.event_type == "track_played" and message.reason is None:
            contract = contracts().get("track_played", str(message.schema_version or 2))
            stream = BytesIO(message.data)
            payload = fastavro.schemaless_reader(stream, contract.schema, None)
            assert isinstance(payload, dict)
            assert stream.tell() == len(message.data)
            assert ("quality" in payload) == (contract.version == 2)
            versions.add(contract.version)
    assert versions == {1, 2}


def test_simulate__late_messages(messages: list[Simulated]) -> None:
    """Some messages of a few buckets are held back for the second part; all of them are valid."""
    late = [message for message in messages if message.part == 2]
    assert 120 < sum(not message.copy for message in late) < 320
    assert {message.reason for message in late} == {None}
    assert len({(message.event_type, message.received_at.hour) for message in late}) == 4


def test_expected__silent_hours() -> None:
    """Two types have no event in one hour each."""
    rows = expected(1, 20_000, 3, END)
    assert [key for key, row in rows.items() if row.messages == 0] == [
        ("playlist_created", HOURS[2]),
        ("subscription_changed", HOURS[0]),
    ]


def test_simulate__frequencies(messages: list[Simulated]) -> None:
    """Some types occur much more often than others."""
    counts = Counter(message.event_type for message in messages)
    assert counts["track_played"] > 6_000
    assert 20 < counts["subscription_changed"] < 200


def test_expected__equals_a_naive_delivery(messages: list[Simulated]) -> None:
    """Expected counts equal a delivery of the messages one by one."""
    rows = expected(1, 20_000, 3, END)
    delivered: dict[tuple[str, datetime], set[str]] = {}
    outcome: Counter[tuple[str, datetime, str]] = Counter()
    for message in sorted(messages, key=lambda message: message.part):
        hour = message.received_at.replace(minute=0, second=0, microsecond=0)
        key = message.event_type or "", hour
        delivered_ids = delivered.setdefault(key, set())
        if message.reason is not None:
            outcome[*key, str(message.reason)] += 1
        elif message.event_id in delivered_ids:
            outcome[*key, "duplicate"] += 1
        else:
            delivered_ids.add(message.event_id)
            outcome[*key, "late"] += message.part == 2
    assert {key: row.delivered for key, row in rows.items() if row.delivered} == {
        key: len(event_ids) for key, event_ids in delivered.items() if event_ids
    }
    for (event_type, hour), row in rows.items():
        assert row.duplicates == outcome[event_type, hour, "duplicate"]
        assert row.late == outcome[event_type, hour, "late"]
        assert dict(row.dead) == {reason: n for reason in Reason if (n := outcome[event_type, hour, reason])}
        assert row.messages == row.delivered + row.duplicates + row.dead.total()
        assert row.events == row.messages - row.duplicates
    assert sum(row.messages for row in rows.values()) == len(messages)
    assert {key for key in rows if key[0] in EVENT_TYPES} == {
        (event_type, hour) for event_type in EVENT_TYPES for hour in HOURS
    }


@pytest.mark.parametrize("hours", [1, 2, 50])
def test_simulate__any_number_of_hours(hours: int) -> None:
    for events in (1, 300):
        messages = list(simulate(3, events, hours, END))
        assert len({message.event_id for message in messages}) == events
        assert all(END - timedelta(hours=hours) <= message.received_at < END for message in messages)


def test_hours_of__end_within_an_hour() -> None:
    with pytest.raises(ValueError, match="not the start of an hour"):
        hours_of(3, END + timedelta(minutes=1))


def test_contracts__use_every_avro_type() -> None:
    """The contracts of the example use every Avro type that it is to show."""
    text = json.dumps([contracts().newest(event_type).schema for event_type in EVENT_TYPES])
    for avro_type in ("record", "array", "map", "enum", "date", "timestamp-micros", "decimal", "uuid"):
        assert f'"{avro_type}"' in text


@pytest.mark.parametrize("event_type", EVENT_TYPES)
def test_makers__fill_the_newest_contract(event_type: str) -> None:
    fields = [field["name"] for field in contracts().newest(event_type).schema["fields"]]
    assert list(MAKERS[event_type][1](Random(1), END)) == fields


def test_to_json__forms() -> None:
    """Values become JSON in the forms that contracts require."""
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
