"""Avro's binary encoding of what every event has: whole numbers, texts, and the envelope that comes before its own fields."""

from __future__ import annotations

from collections.abc import Callable

_NULL = b"\x00"
_PRESENT = b"\x02"
"""Avro's index of a union's branch, as the envelope's unions have them: null first."""


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


_SHORT = tuple(map(_varint, range(1 << 14)))
_GOES_ON = tuple(bytes((low & 0x7F | 0x80, low >> 7 | 0x80)) for low in range(1 << 14))
"""Fourteen bits at a time: a time takes four look-ups instead of eight turns of a loop."""


def long(number: int) -> bytes:
    """Avro's binary form of an int or long: zigzag, then seven bits a byte, the lowest first (Avro 1.12, "Binary encoding")."""
    rest = number << 1 if number >= 0 else ~(number << 1)
    if rest < 1 << 14:
        return _SHORT[rest]
    if rest < 1 << 28:
        return _GOES_ON[rest & 0x3FFF] + _SHORT[rest >> 14]
    if rest < 1 << 42:
        return _GOES_ON[rest & 0x3FFF] + _GOES_ON[rest >> 14 & 0x3FFF] + _SHORT[rest >> 28]
    if rest < 1 << 56:
        return _GOES_ON[rest & 0x3FFF] + _GOES_ON[rest >> 14 & 0x3FFF] + _GOES_ON[rest >> 28 & 0x3FFF] + _SHORT[rest >> 42]
    return _varint(rest)


LENGTHS = tuple(map(long, range(1 << 13)))
"""`long` of the lengths of usual texts."""


def text(value: str) -> bytes:
    """Avro's binary form of a string."""
    data = value.encode()
    size = len(data)
    return (LENGTHS[size] if size < 1 << 13 else long(size)) + data


EnvelopeEncoder = Callable[[str, int, int | None, str, str | None, int | None], bytes]
"""Takes event_id, received_at, sent_at, message_id, unknown_fields and skewed_from; times in microseconds since 1970."""


def envelope_encoder(event_type: str, version: int) -> EnvelopeEncoder:
    """Encodes `schemas.envelope.ENVELOPE_FIELDS`: the first part of a row, before the event's own fields."""
    kind = text(event_type) + long(version)

    def encode(
        event_id: str,
        received_at: int,
        sent_at: int | None,
        message_id: str,
        unknown_fields: str | None,
        skewed_from: int | None,
    ) -> bytes:
        return b"".join(
            (
                text(event_id),
                kind,
                long(received_at),
                _NULL if sent_at is None else _PRESENT + long(sent_at),
                text(message_id),
                _NULL if unknown_fields is None else _PRESENT + text(unknown_fields),
                _NULL if skewed_from is None else _PRESENT + long(skewed_from),
            )
        )

    return encode
