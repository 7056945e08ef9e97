"""A small, strict BigQuery in memory, in this process: the REST API as the Python client uses it.

It implements documented behaviour and refuses everything else: an unknown path, parameter or field gets 501 or fails the job,
and raises AssertionError when the server stops. Loads are in `bigquery_loads`, queries in `bigquery_queries`.
"""

from __future__ import annotations

import itertools
import json
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.support.bigquery_loads import JobError, check_schema_change, encode_row, load, normal_schema
from tests.support.bigquery_queries import query
from tests.support.faults import Faults

Json = dict[str, Any]

LOCATION = "europe-west4"
"""Not US: BigQuery finds a job there even if the request does not name the location."""

_TABLE = {"tableReference", "schema", "timePartitioning", "requirePartitionFilter", "labels"}
_FORMAT = {"formatOptions.useInt64Timestamp", "formatOptions.timestampOutputFormat"}
_STATUS = {"notFound": 404, "invalid": 400, "invalidQuery": 400, "backendError": 503, "duplicate": 409}

_REASONS = {
    403: "accessDenied",
    412: "conditionNotMet",
    429: "rateLimitExceeded",
    500: "internalError",
    502: "badGateway",
    503: "backendError",
}


class Refused(Exception):
    """A request that gets an error response."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        errors = [{"reason": reason, "message": message, "domain": "global"}]
        self.status, self.body = status, {"error": {"code": status, "message": message, "errors": errors}}


@dataclass
class Table:
    """A table's resource and the rows of its partitions."""

    resource: Json
    partitions: dict[str, list[Json]] = field(default_factory=dict)
    """`YYYYMMDDHH` -> its rows."""

    @property
    def fields(self) -> list[Json]:
        fields: list[Json] = self.resource["schema"]["fields"]
        return fields

    def rows(self, partition: str = "") -> list[Json]:
        return [row for name, rows in sorted(self.partitions.items()) if partition in ("", name) for row in rows]


@dataclass
class Job:
    """A load or query job."""

    resource: Json
    polls: int
    """Number of polls that find it running."""
    result: tuple[list[Json], list[Json]] | None = None


class BigQueryServer(Faults):
    """`with BigQueryServer("project.dataset", read) as server:` serves at `server.url`, for BIGQUERY_EMULATOR_HOST.

    Args:
        dataset: `project.dataset`
        read: returns the bytes of a gs:// URI or raises KeyError
    """

    def __init__(self, dataset: str, read: Callable[[str], bytes]) -> None:
        super().__init__()
        self.project, self.dataset = dataset.rsplit(".", 1)
        self.read = read
        self.requests: list[str] = []
        """Every request so far: `METHOD /path?query`, unquoted."""
        self.delay = 0
        """Number of polls that find each new job running."""
        self._tables: dict[str, Table] = {}
        self._jobs: dict[str, Job] = {}
        self._failures = 0
        self._unknown: list[str] = []
        self._etags = itertools.count(1)
        self._lock = threading.RLock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"server_of": self}))
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> BigQueryServer:
        self._thread.start()
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
        if self._unknown and failure is None:
            raise AssertionError(f"the stand-in got requests that it does not implement: {self._unknown}")

    def fail_loads(self, count: int = 1) -> None:
        """Fail the next `count` load jobs with a backendError, without effect."""
        self._failures = count

    def rows(self, table: str, partition: str = "") -> list[Json]:
        """Return the live rows of a table, or of one of its partitions, for tests that read or change them."""
        with self._lock:
            return self._tables[table].rows(partition)

    def partitions(self, table: str) -> dict[str, list[Json]]:
        """Return the live partitions of a table."""
        return self._tables[table].partitions

    def schema(self, table: str) -> list[Json]:
        return self._tables[table].fields

    def answer(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> tuple[int, Json] | None:
        """Return (status, body) of the response, or None if the connection is to be dropped."""
        url = urlsplit(target)
        parameters = dict(parse_qsl(url.query, keep_blank_values=True))
        parameters.pop("prettyPrint", None)
        line = unquote(f"{method} {target}")
        self.act_before(line)
        with self._lock:
            self.requests.append(line)
            fault = self.fault_of(line)
            answer: tuple[int, Json] | None = None
            if fault is None or fault.takes_effect:
                try:
                    answer = 200, self._route(method, url.path, parameters, headers, json.loads(body or b"{}"))
                except Refused as refused:
                    answer = refused.status, refused.body
                    if refused.status == 501:
                        self._unknown.append(str(refused))
                except Exception as error:  # noqa: BLE001 (raised when the server stops)
                    answer = 501, Refused(501, "notImplemented", repr(error)).body
                    self._unknown.append(f"{line}: {error!r}")
            if fault is not None:
                answer = (
                    (fault.status, Refused(fault.status, _REASONS[fault.status], "injected").body) if fault.status else None
                )
            return answer

    def _route(self, method: str, path: str, parameters: dict[str, str], headers: Mapping[str, str], body: Json) -> Json:
        project = rf"/bigquery/v2/projects/{self.project}"
        routes: tuple[tuple[str, str, Callable[..., Json], set[str]], ...] = (
            ("GET", r"/datasets/([^/]+)", self._get_dataset, set()),
            ("POST", r"/datasets/([^/]+)/tables", lambda dataset: self._create(dataset, body), set()),
            ("GET", r"/datasets/([^/]+)/tables/([^/]+)", lambda *key: self._find(*key).resource, set()),
            (
                "PATCH",
                r"/datasets/([^/]+)/tables/([^/]+)",
                lambda *key: self._patch(key, headers.get("If-Match"), body),
                set(),
            ),
            ("GET", r"/datasets/([^/]+)/tables/([^/]+)/data", self._list_rows, _FORMAT | {"maxResults", "selectedFields"}),
            ("POST", r"/jobs", lambda: self._insert_job(body), set()),
            ("GET", r"/jobs/([^/]+)", lambda job: self._get_job(job, parameters.get("location")), {"location", "projection"}),
            (
                "GET",
                r"/queries/([^/]+)",
                lambda job: self._results(job, parameters),
                _FORMAT | {"location", "maxResults", "timeoutMs", "fields"},
            ),
        )
        for verb, pattern, handler, known in routes:
            match = re.fullmatch(project + pattern, unquote(path))
            if verb == method and match:
                if parameters.keys() - known:
                    raise Refused(
                        501, "notImplemented", f"this server does not implement the parameters {parameters.keys() - known}"
                    )
                return handler(*match.groups())
        raise Refused(501, "notImplemented", f"this server does not implement {method} {path}")

    def _get_dataset(self, dataset: str) -> Json:
        if dataset != self.dataset:
            raise Refused(404, "notFound", f"Not found: Dataset {self.project}:{dataset}")
        return {"datasetReference": {"projectId": self.project, "datasetId": dataset}, "location": LOCATION}

    def _find(self, dataset: str, name: str) -> Table:
        self._get_dataset(dataset)
        table = self._tables.get(name.partition("$")[0])
        if table is None:
            raise Refused(404, "notFound", f"Not found: Table {self.project}:{dataset}.{name}")
        return table

    def _create(self, dataset: str, body: Json) -> Json:
        self._get_dataset(dataset)
        _only(body, _TABLE)
        name = body["tableReference"]["tableId"]
        if name in self._tables:
            raise Refused(409, "duplicate", f"Already Exists: Table {self.project}:{dataset}.{name}")
        fields = normal_schema(body["schema"]["fields"])
        partitioning = body["timePartitioning"]
        _only(partitioning, {"type", "field"})
        column = next((candidate for candidate in fields if candidate["name"] == partitioning["field"]), None)
        if partitioning["type"] != "HOUR" or column is None or column["type"] != "TIMESTAMP":
            raise Refused(400, "invalid", f"this server partitions by the hour of a TIMESTAMP column, not by {partitioning}")
        added = {"id": f"{self.project}:{dataset}.{name}", "location": LOCATION, "etag": self._etag(), "type": "TABLE"}
        self._tables[name] = Table({**body, **added, "schema": {"fields": fields}})
        return self._tables[name].resource

    def _patch(self, key: tuple[str, str], etag: str | None, body: Json) -> Json:
        dataset, name = key
        table = self._find(dataset, name)
        _only(body, {"schema"})
        if etag not in (None, table.resource["etag"]):
            raise Refused(412, "conditionNotMet", "Precondition Failed")
        fields = normal_schema(body["schema"]["fields"])
        problem = check_schema_change(table.fields, fields)
        if problem:
            raise Refused(400, "invalid", f"Provided Schema does not match Table {self.project}:{dataset}.{name}. {problem}")
        table.resource = {**table.resource, "schema": {"fields": fields}, "etag": self._etag()}
        return table.resource

    def _etag(self) -> str:
        return f'"etag-{next(self._etags)}"'

    def _list_rows(self, dataset: str, name: str) -> Json:
        table = self._find(dataset, name)
        rows = table.rows(name.partition("$")[2])
        return {"totalRows": str(len(rows)), "rows": [encode_row(table.fields, row) for row in rows]}

    def _insert_job(self, body: Json) -> Json:
        _only(body, {"jobReference", "configuration"})
        reference = body["jobReference"]
        _only(reference, {"projectId", "jobId", "location"})
        name = reference["jobId"]
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,1024}", name):
            raise Refused(400, "invalid", f"Invalid job ID {name!r}")
        if reference.get("location", LOCATION) != LOCATION:
            raise Refused(404, "notFound", f"Not found: Dataset {self.project}:{self.dataset} was not found in that location")
        if name in self._jobs:
            raise Refused(409, "duplicate", f"Already Exists: Job {self.project}:{LOCATION}.{name}")
        located = {"projectId": self.project, "jobId": name, "location": LOCATION}
        resource = {
            "id": name,
            "jobReference": located,
            "configuration": body["configuration"],
            "status": {"state": "RUNNING"},
        }
        self._jobs[name] = Job(resource, self.delay)
        return self._advance(self._jobs[name])

    def _advance(self, job: Job) -> Json:
        """Complete the job once it was polled often enough. Until then it has no visible effect."""
        if job.resource["status"]["state"] == "DONE":
            return job.resource
        if job.polls:
            job.polls -= 1
            return job.resource
        configuration = job.resource["configuration"]
        status: Json = {"state": "DONE"}
        statistics: Json = {}
        try:
            if "load" in configuration:
                statistics = self._run_load(configuration["load"])
            else:
                _only(configuration, {"query", "jobType"})
                job.result = query(configuration["query"], f"{self.project}.{self.dataset}", self._tables)
        except JobError as error:
            problem = {"reason": error.reason, "message": str(error)}
            if error.reason == "notImplemented":
                self._unknown.append(str(error))
            status |= {"errorResult": problem, "errors": [problem]}
        job.resource = {**job.resource, "status": status, "statistics": statistics}
        return job.resource

    def _run_load(self, configuration: Json) -> Json:
        if self._failures:
            self._failures -= 1
            raise JobError("backendError", "injected")
        name, _, partition = configuration["destinationTable"]["tableId"].partition("$")
        if configuration["destinationTable"]["datasetId"] != self.dataset or name not in self._tables:
            raise JobError("notFound", f"Not found: Table {self.project}:{self.dataset}.{name}")
        table = self._tables[name]
        rows = load(configuration, table.fields, table.resource["timePartitioning"]["field"], partition, self.read)
        table.partitions[partition] = rows
        return {"load": {"inputFiles": str(len(configuration["sourceUris"])), "outputRows": str(len(rows))}}

    def _get_job(self, name: str, location: str | None) -> Json:
        if name not in self._jobs or location != LOCATION:
            raise Refused(404, "notFound", f"Not found: Job {self.project}:{location or 'US'}.{name}")
        return self._advance(self._jobs[name])

    def _results(self, name: str, parameters: dict[str, str]) -> Json:
        resource = self._get_job(name, parameters.get("location"))
        status, result = resource["status"], self._jobs[name].result
        if "errorResult" in status:
            problem = status["errorResult"]
            raise Refused(_STATUS[problem["reason"]], problem["reason"], problem["message"])
        if result is None:
            return {"jobReference": resource["jobReference"], "jobComplete": False}
        fields, rows = result
        answer = {"jobReference": resource["jobReference"], "jobComplete": True, "totalRows": str(len(rows))}
        if parameters.get("maxResults") != "0":
            if parameters.get("formatOptions.useInt64Timestamp") != "True":
                raise Refused(501, "notImplemented", "this server writes timestamps as whole numbers only")
            answer["rows"] = [encode_row(fields, row) for row in rows]
        return {**answer, "schema": {"fields": fields}}


def _only(body: Json, known: set[str]) -> None:
    if body.keys() - known:
        raise Refused(501, "notImplemented", f"this server does not implement the fields {body.keys() - known}")


class _Handler(BaseHTTPRequestHandler):
    server_of: BigQueryServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        answer = self.server_of.answer(self.command, self.path, dict(self.headers.items()), body)
        if answer is None:
            self.close_connection = True
            return
        text = json.dumps(answer[1]).encode()
        self.send_response(answer[0])
        self.send_header("Content-Type", "application/json; charset=UTF-8")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815 (http.server's names)

    def log_message(self, *args: object) -> None:
        """Log nothing: tests have no use for a log of requests."""
