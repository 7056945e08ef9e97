"""Avro's binary encoding of the parts that every event has: integers, strings, and the envelope before its own fields."""

from __future__ import annotations

from collections.abc import Callable

_NULL = b"\x00"
_PRESENT = b"\x02"
"""Indexes of a union's branches in binary form. In the envelope's unions null is first."""


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


_SHORT = tuple(map(_varint, range(1 << 14)))
_MIDDLE = tuple(bytes((low & 0x7F | 0x80, low >> 7 | 0x80)) for low in range(1 << 14))
"""Two bytes of a varint that more bytes follow.

With 14 bits per look-up, a timestamp takes four look-ups instead of eight iterations of a loop.
"""


def long(number: int) -> bytes:
    """Encode an int or long: zigzag, then seven bits per byte, lowest bits first (Avro 1.12, "Binary encoding")."""
    rest = number << 1 if number >= 0 else ~(number << 1)
    if rest < 1 << 14:
        return _SHORT[rest]
    if rest < 1 << 28:
        return _MIDDLE[rest & 0x3FFF] + _SHORT[rest >> 14]
    if rest < 1 << 42:
        return _MIDDLE[rest & 0x3FFF] + _MIDDLE[rest >> 14 & 0x3FFF] + _SHORT[rest >> 28]
    if rest < 1 << 56:
        return _MIDDLE[rest & 0x3FFF] + _MIDDLE[rest >> 14 & 0x3FFF] + _MIDDLE[rest >> 28 & 0x3FFF] + _SHORT[rest >> 42]
    return _varint(rest)


LENGTHS = tuple(map(long, range(1 << 13)))
"""The encoded lengths of most strings."""


def text(value: str) -> bytes:
    """Encode a string."""
    data = value.encode()
    size = len(data)
    return (LENGTHS[size] if size < 1 << 13 else long(size)) + data


EnvelopeEncoder = Callable[[str, int, int | None, str, str | None, int | None], bytes]
"""A function of event_id, received_at, sent_at, message_id, unknown_fields and skewed_from.

Times are microseconds since 1970.
"""


def envelope_encoder(event_type: str, version: int) -> EnvelopeEncoder:
    """Return a function that encodes `schemas.envelope.ENVELOPE_FIELDS`, the part of a row before the event's own fields."""
    type_and_version = text(event_type) + long(version)

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
                type_and_version,
                long(received_at),
                _NULL if sent_at is None else _PRESENT + long(sent_at),
                text(message_id),
                _NULL if unknown_fields is None else _PRESENT + text(unknown_fields),
                _NULL if skewed_from is None else _PRESENT + long(skewed_from),
            )
        )

    return encode
