"""BigQuery beyond the contract of TableStore: reused ids, lost responses, refused requests, concurrent schema changes."""

import pickle
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from google.api_core.exceptions import BadRequest
from google.api_core.retry import Retry
from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery as client_library

from schemas.columns import Column
from schemas.tables import Table
from storage.objects.local import Directory
from storage.tables import bigquery
from storage.tables.base import LoadJobFailed, TableStoreError
from storage.tables.bigquery import BigQuery
from tests.support.bigquery import BigQueryServer
from tests.support.gcs import GcsServer
from tests.support.tables import Store, bigquery_store, job_id

TEN = datetime(2026, 3, 29, 10, tzinfo=UTC)
ROW = {"event_id": "a", "received_at": TEN}
INSERT = "POST /bigquery/v2/projects/project-1/jobs"


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Store, BigQueryServer, GcsServer]]:
    quick = {"_initial": 0.001, "_maximum": 0.01}
    for retry in (bigquery.RETRY, bigquery._FIND_JOB, bigquery._WAIT):
        for name, value in quick.items():
            monkeypatch.setattr(retry, name, value)
    with bigquery_store(monkeypatch) as parts:
        yield parts


@pytest.fixture
def store(parts: tuple[Store, BigQueryServer, GcsServer]) -> Store:
    return parts[0]


@pytest.fixture
def server(parts: tuple[Store, BigQueryServer, GcsServer]) -> BigQueryServer:
    return parts[1]


def create_table(store: Store, *columns: Column) -> Table:
    table = store.table(*columns)
    store.tables.ensure(table)
    return table


def inserts(server: BigQueryServer) -> int:
    return sum(request.startswith(INSERT) for request in server.requests)


def test_check_writable__missing_dataset(store: Store) -> None:
    """The error contains the command that creates the dataset."""
    missing = BigQuery("bigquery://project-1.nowhere")
    with pytest.raises(TableStoreError, match=r"bq --location=US mk --dataset project-1:nowhere"):
        missing.check_writable(store.objects)
    missing.client.close()


def test_check_writable__directory(store: Store, tmp_path: object) -> None:
    """An object store in a directory fails the check."""
    with pytest.raises(TableStoreError, match="gs://bucket"):
        store.tables.check_writable(Directory(str(tmp_path)))


@pytest.mark.parametrize("uri", ["bigquery://", "bigquery://project", "bigquery://project.data-set", "bigquery://a/b.c"])
def test_init__invalid_uri(uri: str) -> None:
    """The error contains the form that is accepted."""
    with pytest.raises(TableStoreError, match=r"bigquery://project\.dataset"):
        BigQuery(uri)


def test_pickle__no_client(store: Store) -> None:
    """A pickled copy creates a client of its own."""
    table = create_table(store)
    copy = pickle.loads(pickle.dumps(store.tables))
    copy.ensure(table)
    assert copy.uri == store.tables.uri
    assert copy.client is not store.tables.client  # type: ignore[attr-defined]
    copy.client.close()


def test_ensure__new_table(store: Store, server: BigQueryServer) -> None:
    """A new table has hour partitions that don't expire, and requires a partition filter."""
    table = create_table(store)
    live = store.tables.client.get_table(f"project-1.events.{table.name}")  # type: ignore[attr-defined]
    assert (live.time_partitioning.type_, live.time_partitioning.field) == ("HOUR", "received_at")
    assert live.time_partitioning.expiration_ms is None
    assert live.require_partition_filter is True
    assert [field.mode for field in live.schema] == ["REQUIRED", "REQUIRED"]


def test_ensure__other_partitioning(store: Store) -> None:
    """A table with another partitioning is an error."""
    table = create_table(store, Column("other", "TIMESTAMP", "NULLABLE"))
    with pytest.raises(TableStoreError, match="not partitioned by the hour of other"):
        store.tables.ensure(replace(table, partition_by="other"))


def test_ensure__concurrent_change(store: Store, server: BigQueryServer) -> None:
    """A table that is changed concurrently has the new columns of both."""
    table = create_table(store)
    mine = replace(table, columns=(*table.columns, Column("mine", "STRING", "NULLABLE")))
    theirs = replace(table, columns=(*table.columns, Column("theirs", "STRING", "NULLABLE")))
    answer = server.answer
    interrupted = threading.Event()

    def interrupt(method: str, *rest: object) -> object:
        if method == "PATCH" and not interrupted.is_set():
            interrupted.set()
            store.tables.ensure(theirs)
        return answer(method, *rest)  # type: ignore[arg-type]

    server.answer = interrupt  # type: ignore[assignment, method-assign]
    store.tables.ensure(mine)
    assert interrupted.is_set()
    assert [field["name"] for field in server.schema(table.name)] == ["event_id", "received_at", "theirs", "mine"]


def test_ensure__added_record(store: Store, server: BigQueryServer) -> None:
    """The fields of an added record are NULLABLE, because BigQuery accepts no REQUIRED ones."""
    table = create_table(store)
    pair = (Column("key", "STRING", "REQUIRED"), Column("value", "INT64", "NULLABLE"))
    store.tables.ensure(replace(table, columns=(*table.columns, Column("map", "STRUCT", "REPEATED", pair))))
    added = server.schema(table.name)[-1]
    assert (added["mode"], [field["mode"] for field in added["fields"]]) == ("REPEATED", ["NULLABLE", "NULLABLE"])


@pytest.mark.parametrize("match", [r"/tables", "PATCH"])
def test_ensure__lost_response(store: Store, server: BigQueryServer, match: str) -> None:
    """A lost response to a creation or change of a table is harmless."""
    table = store.table()
    server.lose_answer(match=f"POST /bigquery/v2/projects/project-1/datasets/events{match}" if match == "/tables" else match)
    store.tables.ensure(table)
    store.tables.ensure(replace(table, columns=(*table.columns, Column("name", "STRING", "NULLABLE"))))
    assert [field["name"] for field in server.schema(table.name)] == ["event_id", "received_at", "name"]


@pytest.mark.parametrize("status", [0, 503])
def test_load__lost_response(store: Store, server: BigQueryServer, status: int) -> None:
    """A job whose response was lost is found by its id, and is not started again."""
    table = create_table(store)
    server.lose_answer(match=INSERT, status=status)
    assert store.tables.load(job_id(), table, TEN, store.objects, [store.write([ROW])]) == 1
    assert inserts(server) == 2
    assert server.partitions(table.name).keys() == {"2026032910"}


def test_load__transient_errors(store: Store, server: BigQueryServer) -> None:
    """Transient errors are retried."""
    table = create_table(store)
    server.fail_next(2, 503, match=INSERT)
    server.fail_next(1, 0, match="GET")
    assert store.tables.load(job_id(), table, TEN, store.objects, [store.write([ROW])]) == 1


def test_load__outage(store: Store, server: BigQueryServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """An outage raises TableStoreError once the retries have timed out, but no LoadJobFailed."""
    table = create_table(store)
    monkeypatch.setattr(bigquery.RETRY, "_timeout", 0.05)
    server.fail_next(10**6, 503, match=INSERT)
    with pytest.raises(TableStoreError, match="gave up waiting") as error:
        store.tables.load(job_id(), table, TEN, store.objects, [store.write([ROW])])
    assert not isinstance(error.value, LoadJobFailed)


def test_load__permission_denied(store: Store, server: BigQueryServer) -> None:
    """The error names the roles that are missing."""
    table = create_table(store)
    server.fail_next(1, 403, match=INSERT)
    with pytest.raises(TableStoreError, match=r"roles/bigquery\.jobUser"):
        store.tables.load(job_id(), table, TEN, store.objects, [store.write([ROW])])


def test_load__slow_job(store: Store, server: BigQueryServer) -> None:
    """A job that does not end at once is awaited."""
    table = create_table(store)
    server.delay = 3
    assert store.tables.load(job_id(), table, TEN, store.objects, [store.write([ROW])]) == 1


def test_load__id_of_running_job(store: Store, server: BigQueryServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repeated load waits for the running job of the same id."""
    table, reused = create_table(store), job_id()
    files = [store.write([ROW])]
    server.delay = 10**6
    with monkeypatch.context() as patch:
        patch.setattr(bigquery._WAIT, "_timeout", 0.05)
        with pytest.raises(TableStoreError, match="still RUNNING"):
            store.tables.load(reused, table, TEN, store.objects, files)
    server._jobs[reused].polls = 2
    assert store.tables.load(reused, table, TEN, store.objects, files) == 1
    assert len(server._jobs) == 1


def test_load__failure_of_the_service(store: Store, server: BigQueryServer) -> None:
    """A job that fails because of the service is transient and uses up its id."""
    table, reused = create_table(store), job_id()
    files = [store.write([ROW])]
    server.fail_loads()
    for already_failed in (False, True):
        with pytest.raises(LoadJobFailed, match="backendError") as error:
            store.tables.load(reused, table, TEN, store.objects, files)
        assert (error.value.already_failed, error.value.transient) == (already_failed, True)
    assert store.tables.load(job_id(), table, TEN, store.objects, files) == 1
    with pytest.raises(LoadJobFailed) as error:
        store.tables.load(job_id(), table, TEN, store.objects, [store.write_bytes(b"broken")])
    assert not error.value.transient


def test_load__request(store: Store, server: BigQueryServer) -> None:
    """A load job replaces one partition and can't create a table."""
    table, reused = create_table(store), job_id()
    file = store.write([ROW])
    store.tables.load(reused, table, TEN, store.objects, [file])
    load = server._jobs[reused].resource["configuration"]["load"]
    assert load["destinationTable"]["tableId"] == f"{table.name}$2026032910"
    assert load["sourceUris"] == [f"gs://bucket-of-events/data/{file}"]
    assert (load["writeDisposition"], load["createDisposition"]) == ("WRITE_TRUNCATE", "CREATE_NEVER")


def test_load__too_many_files(store: Store, server: BigQueryServer) -> None:
    """More files than a job accepts are an error, and no job is started."""
    table = create_table(store)
    with pytest.raises(TableStoreError, match="10001 files"):
        store.tables.load(job_id(), table, TEN, store.objects, ["a.avro"] * 10_001)
    assert inserts(server) == 0


@pytest.mark.integration
def test_emulator__invalid_queries(store: Store) -> None:
    """The emulator refuses a query without a partition filter, and one with an unknown column."""
    table = create_table(store)
    client = client_library.Client(
        "project-1",
        AnonymousCredentials(),
        client_options={"api_endpoint": store.tables.client._connection.API_BASE_URL},  # type: ignore[attr-defined]
    )
    with pytest.raises(BadRequest, match="partition elimination"):
        client.query(f"SELECT COUNT(*) FROM `project-1.events.{table.name}`", retry=Retry(timeout=1)).result()
    with pytest.raises(BadRequest, match="Unrecognized name: nope"):
        client.query(f"SELECT nope FROM `project-1.events.{table.name}` WHERE received_at >= TIMESTAMP '2026-01-01'").result()
    client.close()


@pytest.mark.integration
def test_row_counts__slow_query_and_lost_response(store: Store, server: BigQueryServer) -> None:
    """A query that does not end at once and whose response is lost is awaited."""
    table = create_table(store)
    store.tables.load(job_id(), table, TEN, store.objects, [store.write([ROW, ROW])])
    server.delay = 2
    server.lose_answer(match=INSERT)
    row_counts = store.tables.row_counts(table, TEN, TEN + timedelta(hours=1))
    assert [(counts.rows, counts.distinct.count) for counts in row_counts.values()] == [(2, 1)]
