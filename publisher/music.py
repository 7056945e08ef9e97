"""Payloads of the simulated music service: one function per event type that makes a random payload.

The function takes a random generator and the time of the event. It returns the fields of the newest contract as Python values
(datetime, date, Decimal, UUID, bytes), which fastavro can encode, and `to_json` converts to text.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from random import Random
from uuid import UUID

import orjson

Payload = dict[str, object]
Maker = Callable[[Random, datetime], Payload]

_USERS = 5_000
_TRACKS = 20_000
_ARTISTS = ("Ana Lua", "Björn & Söner", "Die Ampel", "Ньюанс", "夜の電車", "The Low Tide", "Zbigniew Trio", "أمواج")
_TITLES = ("Harbour", "Eins zwei", "Снег", "夏の雨", "Third Floor", "Nocturne 7", "Señales", "Long Way Round")
_SEARCHES = ("rain piano", "björn", "снег", "夏", "running 170", "long way", "sueño", "jazz 1959", "أمواج")
_SOURCES = ("SEARCH", "PLAYLIST", "ALBUM", "RADIO", "LIBRARY")
_DEVICES = (("PHONE", "Linden 4"), ("COMPUTER", "Web player"), ("SPEAKER", "Kugel"), ("CAR", "Fjord EV"), ("TV", "Pane 55"))
_PLANS = (("FREE", "0.00", 1), ("STUDENT", "5.99", 1), ("SINGLE", "10.99", 1), ("FAMILY", "17.99", 6))
_SITES = ("north", "west", "south")


def _uuid(number: int) -> UUID:
    """Return a UUID of version 4, always the same one for the same number."""
    return UUID(int=number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % (1 << 128), version=4)


def _user(rng: Random) -> UUID:
    return _uuid(1 + int(_USERS * rng.random() ** 2))  # squared, so that a few users have most of the events


def _track(rng: Random) -> str:
    return f"tr{int(_TRACKS * rng.random() ** 3):06d}"


def _playlist(rng: Random) -> str:
    return f"pl{rng.randrange(50_000):06d}"


def _track_played(rng: Random, moment: datetime) -> Payload:
    duration = rng.randrange(90_000, 420_000)
    played = duration if rng.random() < 0.7 else rng.randrange(30_000, duration)
    source = rng.choice(_SOURCES)
    artists = rng.sample(_ARTISTS, rng.choice((1, 1, 1, 2, 3)))
    return {
        "user_id": _user(rng),
        "track": {"track_id": _track(rng), "title": rng.choice(_TITLES), "artists": artists, "duration_ms": duration},
        "started_at": moment - timedelta(milliseconds=played),
        "played_ms": played,
        "source": source,
        "shuffle": rng.random() < 0.3,
        "playlist_id": _playlist(rng) if source == "PLAYLIST" else None,
        "quality": rng.choice(("NORMAL", "NORMAL", "HIGH", "LOSSLESS")),
        "volume": rng.randrange(65) / 64 if rng.random() < 0.8 else None,
    }


def _track_skipped(rng: Random, _at: datetime) -> Payload:
    share = rng.random()
    return {
        "user_id": _user(rng),
        "track_id": _track(rng),
        "position_ms": int(share * 240_000),
        "heard_share": share,
        "direction": rng.choice(("FORWARD", "FORWARD", "BACK", "JUMP")),
        "next_track_id": _track(rng) if rng.random() < 0.9 else None,
    }


def _playlist_created(rng: Random, moment: datetime) -> Payload:
    count = rng.randrange(6)
    tracks = [{"track_id": _track(rng), "added_at": moment - timedelta(seconds=count - n)} for n in range(count)]
    labels = {"mood": rng.choice(("calm", "loud"))} if rng.random() < 0.5 else {}
    return {
        "user_id": _user(rng),
        "playlist_id": _playlist(rng),
        "name": f"{rng.choice(_TITLES)} \N{EM DASH} {rng.randrange(100)}",
        "public": rng.random() < 0.2,
        "track_count": count,
        "tracks": tracks,
        "labels": labels,
    }


def _change(rng: Random) -> Payload:
    operation = rng.choice(("ADD", "ADD", "REMOVE", "MOVE"))
    return {
        "operation": operation,
        "track_id": _track(rng),
        "from_position": None if operation == "ADD" else rng.randrange(40),
        "to_position": None if operation == "REMOVE" else rng.randrange(40),
    }


def _playlist_changed(rng: Random, _at: datetime) -> Payload:
    changes = [_change(rng) for _ in range(rng.randrange(1, 4))]
    return {"user_id": _user(rng), "playlist_id": _playlist(rng), "revision": rng.randrange(1, 200), "changes": changes}


def _search_made(rng: Random, _at: datetime) -> Payload:
    results = [_track(rng) for _ in range(rng.randrange(6))]
    rank = rng.randrange(len(results)) if results and rng.random() < 0.6 else None
    return {
        "user_id": _user(rng),
        "text": rng.choice(_SEARCHES),
        "took_ms": rng.randrange(15, 900),
        "filters": {"genre": rng.choice(("jazz", "folk"))} if rng.random() < 0.3 else {},
        "results": results,
        "clicked": None if rank is None else {"rank": rank + 1, "result_id": results[rank]},
    }


def _ad_heard(rng: Random, moment: datetime) -> Payload:
    ad = rng.randrange(40)
    return {
        "user_id": _user(rng),
        "ad_id": _uuid(1_000_000 + ad),
        "campaign": f"campaign {ad // 4}",
        "campaign_starts_on": (moment - timedelta(days=ad)).date(),
        "revenue": Decimal(rng.randrange(1_000, 25_000)).scaleb(-6),
        "heard_ms": rng.randrange(1_000, 30_000),
        "clicked": rng.random() < 0.02,
    }


def _device_connected(rng: Random, moment: datetime) -> Payload:
    kind, model = rng.choice(_DEVICES)
    version = f"{rng.randrange(9, 15)}.{rng.randrange(5)}" if rng.random() < 0.8 else None
    first_seen = (moment - timedelta(days=rng.randrange(900))).date()
    return {
        "user_id": _user(rng),
        "device": {"kind": kind, "model": model, "system_version": version, "first_seen_on": first_seen},
        "key": rng.randbytes(16),
        "battery_percent": rng.randrange(1, 101) if kind == "PHONE" else 100,
        "round_trip_ms": {site: round(rng.uniform(4, 180), 3) for site in rng.sample(_SITES, rng.randrange(1, 4))},
    }


def _subscription_changed(rng: Random, moment: datetime) -> Payload:
    plan, price, seats = rng.choice(_PLANS)
    return {
        "user_id": _user(rng),
        "plan": plan,
        "previous_plan": rng.choice(_PLANS)[0] if rng.random() < 0.7 else None,
        "seats": seats,
        "monthly_price": Decimal(price),
        "currency": rng.choice(("EUR", "SEK", "USD")),
        "effective_on": (moment + timedelta(days=rng.randrange(30))).date(),
        "trial_ends_at": moment + timedelta(days=30) if rng.random() < 0.2 else None,
    }


MAKERS: Mapping[str, tuple[float, Maker]] = {
    "track_played": (46.0, _track_played),
    "track_skipped": (22.0, _track_skipped),
    "search_made": (12.0, _search_made),
    "ad_heard": (8.0, _ad_heard),
    "device_connected": (6.0, _device_connected),
    "playlist_changed": (4.0, _playlist_changed),
    "playlist_created": (1.5, _playlist_created),
    "subscription_changed": (0.5, _subscription_changed),
}
"""Event type -> relative frequency, and the function that makes its payloads."""


def to_json(payload: Payload) -> bytes:
    """Encode a payload as JSON that fits the contracts: RFC 3339 times, ISO dates, decimals as text, bytes in base64."""
    return orjson.dumps(payload, default=_text, option=orjson.OPT_UTC_Z)


def _text(value: object) -> str:
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    raise TypeError(f"{type(value).__name__} has no JSON form")
