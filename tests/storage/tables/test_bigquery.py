"""What only BigQuery can do, or fail to do: ids met again, answers lost, requests refused, schemas changed by others."""

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


def made(store: Store, *columns: Column) -> Table:
    table = store.table(*columns)
    store.tables.ensure(table)
    return table


def inserts(server: BigQueryServer) -> int:
    return sum(request.startswith(INSERT) for request in server.requests)


def test_a_dataset_that_is_not_there_is_an_error_with_the_command_that_makes_it(store: Store) -> None:
    missing = BigQuery("bigquery://project-1.nowhere")
    with pytest.raises(TableStoreError, match=r"bq --location=US mk --dataset project-1:nowhere"):
        missing.check_writable(store.objects)
    missing.client.close()


def test_an_object_store_in_a_directory_are_an_error_before_anything_starts(store: Store, tmp_path: object) -> None:
    with pytest.raises(TableStoreError, match="gs://bucket"):
        store.tables.check_writable(Directory(str(tmp_path)))


@pytest.mark.parametrize("uri", ["bigquery://", "bigquery://project", "bigquery://project.data-set", "bigquery://a/b.c"])
def test_a_uri_that_names_no_dataset_is_an_error(uri: str) -> None:
    with pytest.raises(TableStoreError, match=r"bigquery://project\.dataset"):
        BigQuery(uri)


def test_it_is_pickled_without_its_client(store: Store) -> None:
    table = made(store)
    again = pickle.loads(pickle.dumps(store.tables))
    again.ensure(table)
    assert again.uri == store.tables.uri
    assert again.client is not store.tables.client  # type: ignore[attr-defined]
    again.client.close()


def test_a_new_table_has_partitions_by_the_hour_and_refuses_queries_over_all_of_them(
    store: Store, server: BigQueryServer
) -> None:
    table = made(store)
    live = store.tables.client.get_table(f"project-1.events.{table.name}")  # type: ignore[attr-defined]
    assert (live.time_partitioning.type_, live.time_partitioning.field) == ("HOUR", "received_at")
    assert live.time_partitioning.expiration_ms is None
    assert live.require_partition_filter is True
    assert [field.mode for field in live.schema] == ["REQUIRED", "REQUIRED"]


def test_a_table_with_another_partitioning_is_an_error(store: Store) -> None:
    table = made(store, Column("other", "TIMESTAMP", "NULLABLE"))
    with pytest.raises(TableStoreError, match="not partitioned by the hour of other"):
        store.tables.ensure(replace(table, partition_by="other"))


def test_a_table_that_somebody_widens_at_the_same_time_gains_the_columns_of_both(store: Store, server: BigQueryServer) -> None:
    table = made(store)
    mine = replace(table, columns=(*table.columns, Column("mine", "STRING", "NULLABLE")))
    theirs = replace(table, columns=(*table.columns, Column("theirs", "STRING", "NULLABLE")))
    answer = server.answer
    met = threading.Event()

    def interrupted(method: str, *rest: object) -> object:
        if method == "PATCH" and not met.is_set():
            met.set()
            store.tables.ensure(theirs)
        return answer(method, *rest)  # type: ignore[arg-type]

    server.answer = interrupted  # type: ignore[assignment, method-assign]
    store.tables.ensure(mine)
    assert met.is_set()
    assert [field["name"] for field in server.schema(table.name)] == ["event_id", "received_at", "theirs", "mine"]


def test_an_added_record_has_no_required_fields(store: Store, server: BigQueryServer) -> None:
    table = made(store)
    pair = (Column("key", "STRING", "REQUIRED"), Column("value", "INT64", "NULLABLE"))
    store.tables.ensure(replace(table, columns=(*table.columns, Column("map", "STRUCT", "REPEATED", pair))))
    added = server.schema(table.name)[-1]
    assert (added["mode"], [field["mode"] for field in added["fields"]]) == ("REPEATED", ["NULLABLE", "NULLABLE"])


@pytest.mark.parametrize("match", [r"/tables", "PATCH"])
def test_a_lost_answer_to_a_change_of_a_table_does_no_harm(store: Store, server: BigQueryServer, match: str) -> None:
    table = store.table()
    server.lose_answer(match=f"POST /bigquery/v2/projects/project-1/datasets/events{match}" if match == "/tables" else match)
    store.tables.ensure(table)
    store.tables.ensure(replace(table, columns=(*table.columns, Column("name", "STRING", "NULLABLE"))))
    assert [field["name"] for field in server.schema(table.name)] == ["event_id", "received_at", "name"]


@pytest.mark.parametrize("status", [0, 503])
def test_a_load_whose_answer_was_lost_is_found_by_its_id(store: Store, server: BigQueryServer, status: int) -> None:
    table = made(store)
    server.lose_answer(match=INSERT, status=status)
    assert store.tables.load(job_id(), table, TEN, store.objects, [store.write([ROW])]) == 1
    assert inserts(server) == 2
    assert server.partitions(table.name).keys() == {"2026032910"}


def test_passing_faults_are_tried_again(store: Store, server: BigQueryServer) -> None:
    table = made(store)
    server.fail_next(2, 503, match=INSERT)
    server.fail_next(1, 0, match="GET")
    assert store.tables.load(job_id(), table, TEN, store.objects, [store.write([ROW])]) == 1


def test_faults_that_do_not_pass_are_a_tables_error_in_bounded_time(
    store: Store, server: BigQueryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = made(store)
    monkeypatch.setattr(bigquery.RETRY, "_timeout", 0.05)
    server.fail_next(10**6, 503, match=INSERT)
    with pytest.raises(TableStoreError, match="gave up waiting") as error:
        store.tables.load(job_id(), table, TEN, store.objects, [store.write([ROW])])
    assert not isinstance(error.value, LoadJobFailed)


def test_what_is_not_allowed_is_an_error_that_names_the_roles(store: Store, server: BigQueryServer) -> None:
    table = made(store)
    server.fail_next(1, 403, match=INSERT)
    with pytest.raises(TableStoreError, match=r"roles/bigquery\.jobUser"):
        store.tables.load(job_id(), table, TEN, store.objects, [store.write([ROW])])


def test_a_job_that_takes_its_time_is_waited_for(store: Store, server: BigQueryServer) -> None:
    table = made(store)
    server.delay = 3
    assert store.tables.load(job_id(), table, TEN, store.objects, [store.write([ROW])]) == 1


def test_a_job_that_is_still_running_under_the_id_is_waited_for_and_not_doubled(
    store: Store, server: BigQueryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, one = made(store), job_id()
    files = [store.write([ROW])]
    server.delay = 10**6
    with monkeypatch.context() as patch:
        patch.setattr(bigquery._WAIT, "_timeout", 0.05)
        with pytest.raises(TableStoreError, match="still RUNNING"):
            store.tables.load(one, table, TEN, store.objects, files)
    server._jobs[one].polls = 2
    assert store.tables.load(one, table, TEN, store.objects, files) == 1
    assert len(server._jobs) == 1


def test_a_job_that_failed_by_the_services_fault_uses_up_its_id(store: Store, server: BigQueryServer) -> None:
    table, one = made(store), job_id()
    files = [store.write([ROW])]
    server.fail_loads()
    for already_failed in (False, True):
        with pytest.raises(LoadJobFailed, match="backendError") as error:
            store.tables.load(one, table, TEN, store.objects, files)
        assert (error.value.already_failed, error.value.transient) == (already_failed, True)
    assert store.tables.load(job_id(), table, TEN, store.objects, files) == 1
    with pytest.raises(LoadJobFailed) as error:
        store.tables.load(job_id(), table, TEN, store.objects, [store.write_bytes(b"broken")])
    assert not error.value.transient


def test_a_load_asks_for_one_partition_and_nothing_that_it_need_not(store: Store, server: BigQueryServer) -> None:
    table, one = made(store), job_id()
    file = store.write([ROW])
    store.tables.load(one, table, TEN, store.objects, [file])
    load = server._jobs[one].resource["configuration"]["load"]
    assert load["destinationTable"]["tableId"] == f"{table.name}$2026032910"
    assert load["sourceUris"] == [f"gs://bucket-of-events/data/{file}"]
    assert (load["writeDisposition"], load["createDisposition"]) == ("WRITE_TRUNCATE", "CREATE_NEVER")


def test_more_files_than_a_job_takes_are_an_error_and_no_job(store: Store, server: BigQueryServer) -> None:
    table = made(store)
    with pytest.raises(TableStoreError, match="10001 files"):
        store.tables.load(job_id(), table, TEN, store.objects, ["a.avro"] * 10_001)
    assert inserts(server) == 0


@pytest.mark.slow
def test_the_stand_in_refuses_a_query_without_a_filter_on_the_partition(store: Store) -> None:
    table = made(store)
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


@pytest.mark.slow
def test_a_query_is_answered_after_a_while_and_a_lost_answer(store: Store, server: BigQueryServer) -> None:
    table = made(store)
    store.tables.load(job_id(), table, TEN, store.objects, [store.write([ROW, ROW])])
    server.delay = 2
    server.lose_answer(match=INSERT)
    row_counts = store.tables.row_counts(table, TEN, TEN + timedelta(hours=1))
    assert [(fact.rows, fact.distinct.count) for fact in row_counts.values()] == [(2, 1)]
