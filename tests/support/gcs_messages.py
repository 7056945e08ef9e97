"""Messages between `gcs_api.py` and the client: requests, objects, uploads, responses and refusals."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.message import Message
from typing import Any

import google_crc32c

Query = dict[str, str]
Json = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """An HTTP response."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


class Refused(Exception):
    """A request that gets an error response."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.answer = Answer(status, json.dumps({"error": {"code": status, "message": message}}).encode(), JSON_HEADERS)


JSON_HEADERS = {"Content-Type": "application/json; charset=UTF-8"}


@dataclass(frozen=True)
class Request:
    """The parts of an HTTP request that the API reads."""

    query: Query
    headers: Message
    body: bytes


@dataclass(frozen=True)
class Object:
    """An object in a bucket, with its generation."""

    bucket: str
    name: str
    data: bytes
    generation: int
    metadata: Mapping[str, str]

    @property
    def crc32c(self) -> str:
        return base64.b64encode(google_crc32c.value(self.data).to_bytes(4, "big")).decode()

    @property
    def md5(self) -> str:
        return base64.b64encode(hashlib.md5(self.data).digest()).decode()

    def resource(self) -> Json:
        """Return the object's metadata as the JSON API does."""
        return {
            "kind": "storage#object",
            "bucket": self.bucket,
            "name": self.name,
            "size": str(len(self.data)),
            "generation": str(self.generation),
            "metageneration": "1",
            "crc32c": self.crc32c,
            "md5Hash": self.md5,
            "metadata": dict(self.metadata),
        }


@dataclass
class Upload:
    """A resumable upload. Its preconditions are checked again when the last byte arrives."""

    bucket: str
    resource: Json
    query: Query
    data: bytearray = field(default_factory=bytearray)


_COMMON = {"alt", "prettyPrint", "projection", "fields"}


def json_answer(value: Json) -> Answer:
    return Answer(200, json.dumps(value).encode(), JSON_HEADERS)


def only(query: Query, *known: str) -> None:
    """Raise Refused (501) for any parameter that is neither common nor in `known`."""
    unknown = query.keys() - _COMMON - set(known)
    if unknown:
        raise Refused(501, f"this server does not implement the parameters {unknown}")


def check_generation(query: Query, key: str, found: Object | None) -> None:
    """Raise Refused (412) if the query has this generation precondition and it does not hold."""
    if key in query and int(query[key]) != (found.generation if found else 0):
        raise Refused(412, "At least one of the pre-conditions you specified did not hold.")


def parts(content_type: str, body: bytes) -> tuple[Json, bytes]:
    """Split a multipart/related upload into the resource and the bytes."""
    match = re.fullmatch(r'multipart/related; boundary="?([^";]+)"?', content_type)
    if not match:
        raise Refused(400, f"invalid Content-Type of a multipart upload: {content_type}")
    line = b"--" + match[1].encode()
    if not (body.startswith(line + b"\r\n") and body.rstrip().endswith(b"\r\n" + line + b"--")):
        raise Refused(400, "invalid multipart body")
    first, _, rest = body[len(line) + 2 :].partition(b"\r\n" + line + b"\r\n")
    data = rest.rstrip(b"\r\n")[: -len(b"\r\n" + line + b"--")]
    return json.loads(first.partition(b"\r\n\r\n")[2]), data.partition(b"\r\n\r\n")[2]
