"""The stand-in for Cloud Storage is only useful if it refuses the requests that Cloud Storage refuses."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import requests

from tests.support.gcs import GcsServer


@pytest.fixture
def server() -> Iterator[GcsServer]:
    with GcsServer("bucket", page=2) as server:
        yield server


def upload(server: GcsServer, resource: str, data: bytes, query: str = "", content_type: str = "multipart/related") -> int:
    body = b"--=x=\r\ncontent-type: application/json\r\n\r\n%s\r\n--=x=\r\ncontent-type: a/b\r\n\r\n%s\r\n--=x=--"
    url = f"{server.url}/upload/storage/v1/b/bucket/o?uploadType=multipart{query}"
    headers = {"Content-Type": f'{content_type}; boundary="=x="'}
    return requests.post(url, data=body % (resource.encode(), data), headers=headers, timeout=5).status_code


def status(server: GcsServer, method: str, path: str) -> int:
    return requests.request(method, server.url + path, timeout=5).status_code


def test_bytes_arrive_as_they_were_sent(server: GcsServer) -> None:
    for data in [b"", b"\r\n", b"--=x=", b"\r\n\r\n--", bytes(range(256))]:
        assert upload(server, '{"name": "a"}', data) == 200
        assert server.read("bucket", "a") == data


def test_a_wrong_checksum_is_refused(server: GcsServer) -> None:
    assert upload(server, '{"name": "a", "crc32c": "4waSgw=="}', b"123456789") == 200
    assert upload(server, '{"name": "b", "crc32c": "4waSgw=="}', b"123456780") == 400
    assert upload(server, '{"name": "b", "md5Hash": "4waSgw=="}', b"123456789") == 400
    assert server.list("bucket") == ["a"]


def test_answer__generation_preconditions(server: GcsServer) -> None:
    """Uploads, rewrites, reads and deletes fail with 412 when their generation precondition does not hold."""
    generation = server.put("bucket", "a", b"x").generation
    stale, fresh = f"&ifGenerationMatch={generation - 1}", f"&ifGenerationMatch={generation}"
    assert upload(server, '{"name": "a"}', b"y", "&ifGenerationMatch=0") == 412
    assert upload(server, '{"name": "a"}', b"y", stale) == 412
    assert upload(server, '{"name": "new"}', b"y", fresh) == 412
    a = "/storage/v1/b/bucket/o/a"
    assert status(server, "GET", f"{a}?alt=media{stale}") == 412
    assert status(server, "GET", f"{a}?alt=media{fresh}") == 200
    assert status(server, "GET", f"{a}?generation={generation - 1}") == 404
    assert status(server, "POST", f"{a}/rewriteTo/b/bucket/o/a?{stale}") == 412
    assert status(server, "POST", f"{a}/rewriteTo/b/bucket/o/b?ifGenerationMatch=0") == 200
    assert status(server, "POST", f"{a}/rewriteTo/b/bucket/o/b?ifGenerationMatch=0") == 412
    assert status(server, "DELETE", f"{a}?{stale}") == 412
    assert upload(server, '{"name": "a"}', b"y", fresh) == 200
    assert server.put("bucket", "b", b"").generation > generation


def test_answer__unknown_requests(server: GcsServer) -> None:
    """Requests and parameters that the stand-in does not implement get 501; invalid ones get 400 or 404."""
    server.put("bucket", "a", b"x")
    assert status(server, "GET", "/storage/v1/b/bucket/o?delimiter=/") == 501
    assert status(server, "GET", "/storage/v1/b/bucket/o/a?ifGenerationNotMatch=1") == 501
    assert status(server, "PATCH", "/storage/v1/b/bucket/o/a") == 501
    assert status(server, "POST", "/storage/v1/b/bucket/o/a/copyTo/b/bucket/o/b") == 501
    assert upload(server, '{"name": "a", "acl": []}', b"x") == 501
    assert upload(server, '{"name": "a"}', b"x", content_type="multipart/form-data") == 400
    assert upload(server, '{"name": ""}', b"x") == 400
    assert status(server, "GET", "/storage/v1/b/nowhere/o") == 404


def test_answer__resumable_session(server: GcsServer) -> None:
    """A resumable upload refuses bytes out of order, and checks its precondition again when the last byte arrives."""
    url = f"{server.url}/upload/storage/v1/b/bucket/o?uploadType=resumable&ifGenerationMatch=0"
    session = requests.post(url, json={"name": "a"}, timeout=5).headers["Location"]
    chunk = bytes(256 * 1024)

    def put(content_range: str, data: bytes = b"") -> requests.Response:
        return requests.put(session, data=data, headers={"Content-Range": content_range}, timeout=5)

    first = put("bytes 0-262143/262145", chunk)
    assert (first.status_code, first.headers["Range"]) == (308, "bytes=0-262143")
    assert put("bytes 0-262143/262145", chunk).status_code == 400
    assert put("bytes */262145").headers["Range"] == "bytes=0-262143"
    server.put("bucket", "a", b"another client")
    assert put("bytes 262144-262144/262145", b"x").status_code == 412
    assert server.read("bucket", "a") == b"another client"


def test_listings_come_in_pages(server: GcsServer) -> None:
    for name in ["c", "a", "b", "d"]:
        server.put("bucket", name, b"")
    url = f"{server.url}/storage/v1/b/bucket/o?startOffset=b&fields=items(name),nextPageToken"
    page = requests.get(url, timeout=5).json()
    assert page["items"] == [{"name": "b"}, {"name": "c"}]
    page = requests.get(f"{url}&pageToken={page['nextPageToken']}", timeout=5).json()
    assert page["items"] == [{"name": "d"}]
    assert "nextPageToken" not in page
