"""The JSON API of Cloud Storage over objects in memory, as the Python client uses it.

It implements documented behaviour and refuses everything else: an unknown path or query parameter gets 501, an unknown bucket
404. It checks generation preconditions on uploads, rewrites, reads and deletes, and checksums before an upload becomes
visible.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Mapping
from email.message import Message
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.support.gcs_messages import (
    Answer,
    Object,
    Refused,
    Request,
    Upload,
    check_generation,
    json_answer,
    only,
    parts,
)

_RESOURCE = {"name", "contentType", "crc32c", "md5Hash", "metadata"}
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)")


class Api:
    """The API without HTTP. Not thread-safe.

    Args:
        url: base URL, for the Location of resumable uploads
        buckets: names of the buckets
        page: objects in one page of a listing
        rewrite: bytes that one request of a rewrite copies
    """

    def __init__(self, url: str, buckets: tuple[str, ...], page: int, rewrite: int) -> None:
        self.damaged_uploads = 0
        """Number of next uploads that arrive with one bit flipped."""
        self.damaged_downloads = 0
        """Number of next downloads that leave with one bit flipped."""
        self._url, self._page, self._rewrite_size = url, page, rewrite
        self._objects: dict[str, dict[str, Object]] = {bucket: {} for bucket in buckets}
        self._uploads: dict[str, Upload] = {}
        self._rewrites: dict[str, int] = {}
        self._generations = itertools.count(1_700_000_000_000_000)

    def answer(self, method: str, target: str, headers: Message, body: bytes) -> Answer:
        """Return the response to a request."""
        url = urlsplit(target)
        try:
            query = dict(parse_qsl(url.query, keep_blank_values=True))
            return self._route(method, url.path, Request(query, headers, body))
        except Refused as refused:
            return refused.answer
        except (KeyError, TypeError, ValueError) as error:
            return Refused(400, f"invalid request: {error!r}").answer

    def objects(self, bucket: str) -> dict[str, Object]:
        """Return the objects of a bucket by name."""
        if bucket not in self._objects:
            raise Refused(404, "The specified bucket does not exist.")
        return self._objects[bucket]

    def put(self, bucket: str, name: str, data: bytes, metadata: Mapping[str, str] | None = None) -> Object:
        """Write an object as an upload without preconditions would."""
        written = Object(bucket, name, data, next(self._generations), metadata or {})
        self.objects(bucket)[name] = written
        return written

    def _route(self, method: str, path: str, request: Request) -> Answer:
        object_path = r"/storage/v1/b/([^/]+)/o/([^/]+)"
        routes: tuple[tuple[str, str, Callable[..., Answer]], ...] = (
            ("POST", r"/upload/storage/v1/b/([^/]+)/o", self._upload),
            ("PUT", r"/upload/storage/v1/b/([^/]+)/o", self._continue),
            ("GET", r"/storage/v1/b/([^/]+)", self._describe),
            ("GET", r"/storage/v1/b/([^/]+)/o", self._list),
            ("GET", rf"(?:/download)?{object_path}", self._get),
            ("DELETE", object_path, self._delete),
            ("POST", rf"{object_path}/rewriteTo/b/([^/]+)/o/([^/]+)", self._rewrite),
        )
        for verb, pattern, handler in routes:
            match = re.fullmatch(pattern, path)
            if verb == method and match:
                return handler(request, *map(unquote, match.groups()))
        raise Refused(501, f"this server does not implement {method} {path}")

    def _describe(self, request: Request, bucket: str) -> Answer:
        only(request.query)
        self.objects(bucket)
        return json_answer({"kind": "storage#bucket", "name": bucket, "location": "EU", "locationType": "multi-region"})

    def _upload(self, request: Request, bucket: str) -> Answer:
        query = request.query
        only(query, "uploadType", "ifGenerationMatch")
        kind = query["uploadType"]
        if kind == "multipart":
            resource, data = parts(request.headers["Content-Type"], request.body)
            return self._finish(Upload(bucket, resource, query, bytearray(data)))
        if kind != "resumable":
            raise Refused(501, f"this server does not implement uploadType={kind}")
        upload = Upload(bucket, json.loads(request.body), query)
        self._check(upload)
        key = f"session-{len(self._uploads)}"
        self._uploads[key] = upload
        location = f"{self._url}/upload/storage/v1/b/{bucket}/o?uploadType=resumable&upload_id={key}"
        return Answer(200, headers={"Location": location})

    def _continue(self, request: Request, _: str) -> Answer:
        query, headers, body = request.query, request.headers, request.body
        only(query, "uploadType", "upload_id")
        upload = self._uploads.get(query["upload_id"])
        if upload is None:
            raise Refused(404, "no such upload")
        match = _CONTENT_RANGE.fullmatch(headers["Content-Range"])
        if not match:
            raise Refused(400, "invalid Content-Range")
        first, last, total = match.groups()
        if first is not None:
            if int(first) != len(upload.data) or int(last) - int(first) + 1 != len(body):
                raise Refused(400, f"received {len(upload.data)} bytes so far, not {first}")
            upload.data += body
        if total != "*" and len(upload.data) == int(total):
            return self._finish(upload, headers.get("X-Goog-Hash", ""))
        if len(upload.data) % (256 * 1024):
            raise Refused(400, "every chunk but the last must be a multiple of 256 KiB")
        return Answer(308, headers={"Range": f"bytes=0-{len(upload.data) - 1}"} if upload.data else {})

    def _finish(self, upload: Upload, hashes: str = "") -> Answer:
        self._check(upload)
        if self.damaged_uploads:
            self.damaged_uploads -= 1
            upload.data[0] ^= 1
        resource = upload.resource
        arrived = Object(upload.bucket, resource["name"], bytes(upload.data), 0, {})
        claims = {("crc32c", resource.get("crc32c")), ("md5", resource.get("md5Hash"))}
        claims |= {(kind, value) for kind, _, value in (claim.strip().partition("=") for claim in hashes.split(",")) if kind}
        for kind, value in claims:
            if value is not None and value != getattr(arrived, kind):
                raise Refused(400, f"Provided {kind} {value} doesn't match calculated {kind} {getattr(arrived, kind)}.")
        written = self.put(upload.bucket, arrived.name, arrived.data, resource.get("metadata"))
        return json_answer(written.resource())

    def _check(self, upload: Upload) -> None:
        unknown = upload.resource.keys() - _RESOURCE
        if unknown:
            raise Refused(501, f"this server does not implement the fields {unknown} of an object")
        name = upload.resource.get("name", "")
        if not 0 < len(name.encode()) <= 1024 or "\n" in name or "\r" in name:
            raise Refused(400, f"Invalid object name: {name!r}")
        check_generation(upload.query, "ifGenerationMatch", self.objects(upload.bucket).get(name))

    def _get(self, request: Request, bucket: str, name: str) -> Answer:
        query, headers = request.query, request.headers
        only(query, "generation", "ifGenerationMatch")
        found = self._find(bucket, name, query.get("generation"))
        check_generation(query, "ifGenerationMatch", found)
        if query.get("alt") != "media":
            return json_answer(found.resource())
        about = {
            "Content-Type": "application/octet-stream",
            "X-Goog-Generation": str(found.generation),
            "X-Goog-Metageneration": "1",
            "X-Goog-Hash": f"crc32c={found.crc32c},md5={found.md5}",
            "X-Goog-Stored-Content-Length": str(len(found.data)),
            "X-Goog-Stored-Content-Encoding": "identity",
        }
        if self.damaged_downloads:
            self.damaged_downloads -= 1
            return Answer(200, bytes([found.data[0] ^ 1]) + found.data[1:], about)
        if "Range" not in headers:
            return Answer(200, found.data, about)
        match = _RANGE.fullmatch(headers["Range"])
        if not match:
            raise Refused(501, f"this server does not implement the range {headers['Range']}")
        first, last = int(match[1]), min(int(match[2] or len(found.data)), len(found.data) - 1)
        if first > last:
            raise Refused(416, "The requested range cannot be satisfied.")
        return Answer(206, found.data[first : last + 1], {**about, "Content-Range": f"bytes {first}-{last}/{len(found.data)}"})

    def _list(self, request: Request, bucket: str) -> Answer:
        query = request.query
        only(query, "prefix", "startOffset", "pageToken", "maxResults")
        after, start = query.get("pageToken", ""), query.get("startOffset", "")
        objects = self.objects(bucket)
        names = sorted((name for name in objects if name.startswith(query.get("prefix", ""))), key=str.encode)
        names = [name for name in names if name.encode() >= start.encode() and name.encode() > after.encode()]
        size = min(self._page, int(query.get("maxResults", self._page)))
        items = [objects[name].resource() for name in names[:size]]
        wanted = re.search(r"items\(([^)]*)\)", query.get("fields", ""))
        if wanted:
            items = [{key: item[key] for key in wanted[1].split(",")} for item in items]
        more = {"nextPageToken": names[size - 1]} if len(names) > size else {}
        return json_answer({"kind": "storage#objects", "items": items, **more})

    def _delete(self, request: Request, bucket: str, name: str) -> Answer:
        query = request.query
        only(query, "generation", "ifGenerationMatch")
        check_generation(query, "ifGenerationMatch", self._find(bucket, name, query.get("generation")))
        del self.objects(bucket)[name]
        return Answer(204)

    def _rewrite(self, request: Request, bucket: str, name: str, to_bucket: str, to_name: str) -> Answer:
        query = request.query
        only(query, "ifGenerationMatch", "sourceGeneration", "ifSourceGenerationMatch", "rewriteToken")
        found = self._find(bucket, name, query.get("sourceGeneration"))
        check_generation(query, "ifSourceGenerationMatch", found)
        check_generation(query, "ifGenerationMatch", self.objects(to_bucket).get(to_name))
        token = query.get("rewriteToken", f"rewrite-{len(self._rewrites)}-{found.generation}")
        if "rewriteToken" in query and (token not in self._rewrites or not token.endswith(f"-{found.generation}")):
            raise Refused(400, "invalid rewriteToken")
        size = len(found.data)
        done = self._rewrites[token] = min(size, self._rewrites.get(token, 0) + self._rewrite_size)
        state = {"kind": "storage#rewriteResponse", "totalBytesRewritten": str(done), "objectSize": str(size)}
        if done < size:
            return json_answer({**state, "done": False, "rewriteToken": token})
        written = self.put(to_bucket, to_name, found.data, found.metadata)
        return json_answer({**state, "done": True, "resource": written.resource()})

    def _find(self, bucket: str, name: str, generation: str | None) -> Object:
        found = self.objects(bucket).get(name)
        if found is None or generation not in (None, str(found.generation)):
            raise Refused(404, f"No such object: {bucket}/{name}")
        return found
