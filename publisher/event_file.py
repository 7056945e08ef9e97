"""Reads files of events: one JSON object per line, plain or gzipped."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from publisher.errors import PublisherError
from schemas.envelope import parse_time

REQUIRED = {"event_type", "payload"}
"""Keys of every line."""
OPTIONAL = {"event_id", "received_at", "sent_at", "schema_version", "content_type"}
"""Keys that a line may have."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a file."""

    number: int
    """From 1."""
    data: bytes
    """As in the file, without the line separator."""


class Event(NamedTuple):
    """A parsed line. The fields are the parameters of EventPublisher.publish."""

    event_type: str
    payload: dict[str, object]
    event_id: str | None
    received_at: datetime | None
    sent_at: datetime | None
    schema_version: int | None
    content_type: str | None


def read_lines(path: Path, position: Callable[[int], None]) -> Iterator[Line]:
    """Yield the lines of a file that are not blank. The file is unzipped if its name ends in .gz.

    Args:
        position: called with the number of bytes read so far, after each line.

    Raises:
        PublisherError: the file can't be read, or is damaged. The lines before the damage have been yielded then.
    """
    number = 0
    try:
        with path.open("rb") as raw, gzip.open(raw) if path.suffix == ".gz" else raw as lines:
            for number, data in enumerate(lines, 1):
                if data.strip():
                    yield Line(number, data.rstrip(b"\r\n"))
                position(raw.tell())
    except gzip.BadGzipFile:
        raise PublisherError(f"{path} is not gzipped, though its name ends in .gz. What to do: rename it") from None
    except (EOFError, zlib.error) as error:
        raise PublisherError(f"{path} is cut or damaged after line {number}: {error}. What to do: copy it again") from None
    except OSError as error:
        raise PublisherError(f"{path} can't be read: {error.strerror or error}") from None


def parse_line(data: bytes) -> Event:
    """Parse one line.

    Raises:
        ValueError: it is not an event. The message names the problem and never quotes the payload.
    """
    try:
        value: Any = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at column {error.colno}") from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    if missing := REQUIRED - value.keys():
        raise ValueError(f"{', '.join(sorted(missing))} is missing")
    if unknown := value.keys() - REQUIRED - OPTIONAL:
        raise ValueError(f"unknown key {min(unknown)!r:.80}")
    if not isinstance(value["payload"], dict):
        raise ValueError("payload is not an object")
    version = value.get("schema_version")
    if version is not None and type(version) is not int:
        raise ValueError("schema_version is not an integer")
    event_type = _text(value, "event_type")
    if event_type is None:
        raise ValueError("event_type is null")
    event_id, content_type = _text(value, "event_id"), _text(value, "content_type")
    return Event(
        event_type, value["payload"], event_id, _time(value, "received_at"), _time(value, "sent_at"), version, content_type
    )


def _text(value: dict[str, object], key: str) -> str | None:
    text = value.get(key)
    if text is not None and not isinstance(text, str):
        raise ValueError(f"{key} is not text")
    return text


def _time(value: dict[str, object], key: str) -> datetime | None:
    text = _text(value, key)
    if text is None:
        return None
    try:
        return parse_time(text)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{key} is {error}") from None
