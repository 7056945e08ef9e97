"""Tables in BigQuery: hour partitions, each replaced by one load job from files in Cloud Storage."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import requests.exceptions
from google.api_core import exceptions
from google.api_core.retry import Retry, if_exception_type
from google.auth import exceptions as auth_exceptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery

from schemas.buckets import HOUR, hour_of
from schemas.fingerprints import Tally
from schemas.tables import Table
from storage.objects.base import ObjectStore
from storage.tables.base import LoadError, LoadJobFailed, RowCounts, TableStoreError
from storage.tables.bigquery_schema import merged, to_field

MAX_FILES = 10_000
"""Source URIs of one load job. From BigQuery's quotas, https://cloud.google.com/bigquery/quotas#load_jobs."""

REQUEST_SECONDS = 60.0
"""How long one request may take; a retry follows."""

QUERY_SECONDS = 600.0
"""How long a query may take in all."""

_REASONS = {"rateLimitExceeded", "backendError", "internalError", "badGateway", "jobRateLimitExceeded", "jobBackendError"}
_BROKEN = (
    exceptions.InternalServerError,
    exceptions.BadGateway,
    exceptions.ServiceUnavailable,
    exceptions.GatewayTimeout,
    exceptions.TooManyRequests,
    auth_exceptions.TransportError,
    requests.exceptions.ConnectionError,
    requests.exceptions.ChunkedEncodingError,
    requests.exceptions.Timeout,
)


def _is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed later."""
    reasons = {detail.get("reason") for detail in getattr(error, "errors", ())}
    return isinstance(error, _BROKEN) or bool(reasons & _REASONS)


class _Running(Exception):
    """The job has not ended yet."""


RETRY = Retry(predicate=_is_transient, initial=0.5, maximum=20.0, multiplier=2.0, timeout=180.0)
"""Of requests. The sleep is drawn between 0 and a bound that doubles."""

_FIND_JOB = Retry(
    predicate=lambda error: isinstance(error, exceptions.NotFound) or _is_transient(error), initial=0.5, timeout=60.0
)
"""A job whose id is taken may still be unknown to reads for a moment."""

_WAIT = Retry(predicate=if_exception_type(_Running), initial=0.2, maximum=10.0, multiplier=2.0, timeout=3600.0)

_LANES = ", ".join(
    f"IFNULL(SUM(CAST(CONCAT('0x', SUBSTR(digest, {1 + 8 * lane}, 8)) AS INT64)), 0) AS lane{lane}" for lane in range(4)
)

_ROW_COUNTS = """
SELECT hour, SUM(copies) AS row_count, COUNT(id) AS ids, {lanes}
FROM (
  SELECT TIMESTAMP_TRUNC(`{when}`, HOUR) AS hour, `{id}` AS id, COUNT(*) AS copies, TO_HEX(SHA256(`{id}`)) AS digest
  FROM `{table}`
  WHERE `{when}` >= @first AND `{when}` < @end
  GROUP BY hour, id, digest
)
GROUP BY hour
"""


class BigQuery:
    """Tables in one dataset, as `storage.tables.base.Tables` promises.

    uri: bigquery://project.dataset (TableStoreError otherwise). client: made on first use where none is given, and for the
    emulator where BIGQUERY_EMULATOR_HOST is set (http://host:port). It stays behind when this is pickled.
    Requests are repeated on passing faults for 3 minutes, and a load job is waited for up to an hour; then TableStoreError.
    """

    def __init__(self, uri: str, client: bigquery.Client | None = None) -> None:
        match = re.fullmatch(r"bigquery://([a-z0-9][a-z0-9:.-]+)\.([A-Za-z0-9_]+)", uri)
        if not match:
            raise TableStoreError(f"{uri!r} names no dataset: give bigquery://project.dataset")
        self._uri, self.project, self.dataset = uri, match[1], match[2]
        self._client = client

    def __reduce__(self) -> tuple[type[BigQuery], tuple[str]]:
        return BigQuery, (self._uri,)

    @property
    def uri(self) -> str:
        return self._uri

    def check_writable(self, store: ObjectStore) -> None:
        """Raises TableStoreError, saying what to do, when there is no such dataset, or `store` is not in Cloud Storage."""
        if not store.uri.startswith("gs://"):
            raise TableStoreError(
                f"BigQuery loads from Cloud Storage only, not from {store.uri}: give an object store gs://bucket"
            )
        with self._translate_errors("look for the dataset"):
            try:
                self.client.get_dataset(f"{self.project}.{self.dataset}", retry=RETRY, timeout=REQUEST_SECONDS)
            except exceptions.NotFound as error:
                raise TableStoreError(
                    f"{self._uri}: there is no such dataset. Make it where the object store is (here: US) with\n"
                    f"  bq --location=US mk --dataset {self.project}:{self.dataset}"
                ) from error

    def ensure(self, table: Table) -> None:
        """See `Tables.ensure`. What is no longer REQUIRED, or no longer in `table`, is relaxed to NULLABLE.

        A new table is partitioned by hour and refuses queries without a filter on `partition_by`. Its partitions don't
        expire: BigQuery keeps at most 10,000 a table, 416 days of hours, and what goes when is whoever deploys to decide.
        """
        name = self._name(table)
        with self._translate_errors(f"make or widen table {table.name}"):
            for _ in range(5):
                try:
                    live = self.client.get_table(name, retry=RETRY, timeout=REQUEST_SECONDS)
                except exceptions.NotFound:
                    try:
                        self._create(table)
                        return
                    except exceptions.Conflict:
                        continue  # made by somebody else, or by an attempt whose answer was lost
                _check_partitioning(live, table)
                schema = merged(table.name, live.schema, table.columns)
                if schema == list(live.schema):
                    return
                live.schema = schema
                try:
                    self.client.update_table(live, ["schema"], retry=RETRY, timeout=REQUEST_SECONDS)
                    return
                except exceptions.PreconditionFailed:
                    continue  # changed since it was read
        raise TableStoreError(f"{self._uri}: somebody else keeps changing table {table.name}: try again when nobody does")

    def load(self, job_id: str, table: Table, hour: datetime, store: ObjectStore, files: Sequence[str]) -> int:
        """See `Tables.load`. ValueError when there are no files, or `hour` is not the start of one.

        More than MAX_FILES files are LoadError, and no job is started.
        """
        if not files:
            raise ValueError("a load needs one file or more")
        if hour_of(hour) != hour:
            raise ValueError(f"{hour} is not the start of an hour")
        what = f"load of {table.name}, {hour:%Y-%m-%d %H}h"
        if len(files) > MAX_FILES:
            raise LoadError(f"{self._uri}: {what}: {len(files)} files, but a job takes {MAX_FILES} at most: merge some first")
        client = self.client
        with self._translate_errors(what):
            live = client.get_table(self._name(table), retry=RETRY, timeout=REQUEST_SECONDS)
            target = bigquery.DatasetReference(self.project, self.dataset).table(f"{table.name}${hour:%Y%m%d%H}")
            # With the table's own schema every file is read alike. Without it BigQuery takes the schema of the
            # last file by name, which may lack columns that the others have.
            config = bigquery.LoadJobConfig(
                schema=live.schema,
                source_format=bigquery.SourceFormat.AVRO,
                use_avro_logical_types=True,
                decimal_target_types=["NUMERIC", "BIGNUMERIC"],
                create_disposition=bigquery.CreateDisposition.CREATE_NEVER,
                write_disposition=bigquery.WriteDisposition.WRITE_TRUNCATE,
            )
            common: dict[str, Any] = {"location": live.location, "timeout": REQUEST_SECONDS}
            already_failed = False
            try:
                uris = [f"{store.uri}/{file}" for file in files]
                job = client.load_table_from_uri(uris, target, job_id=job_id, job_config=config, retry=RETRY, **common)
            except exceptions.Conflict:
                existing = client.get_job(job_id, retry=_FIND_JOB, **common)
                if not isinstance(existing, bigquery.LoadJob) or existing.destination != target:
                    raise LoadError(f"{self._uri}: {what}: another job has the id {job_id}: give this one its own") from None
                job, already_failed = existing, existing.state == "DONE"
            _WAIT(_check_ended)(job)
        if job.error_result:
            transient = job.error_result.get("reason") in _REASONS
            raise LoadJobFailed(f"{self._uri}: {what}: job {job_id} failed: {_reasons(job)}", already_failed, transient)
        if job.output_rows is None:
            raise TableStoreError(f"{self._uri}: {what}: job {job_id} ended without a number of rows")
        return int(job.output_rows)

    def row_counts(self, table: Table, first: datetime, last: datetime) -> Mapping[datetime, RowCounts]:
        """See `Tables.facts`. One query job, which reads two columns of these hours."""
        query = _ROW_COUNTS.format(lanes=_LANES, when=table.partition_by, id=table.id_column, table=self._name(table))
        bounds = [
            bigquery.ScalarQueryParameter("first", "TIMESTAMP", first),
            bigquery.ScalarQueryParameter("end", "TIMESTAMP", last + HOUR),
        ]
        config = bigquery.QueryJobConfig(query_parameters=bounds)
        with self._translate_errors(f"count the rows of {table.name}"):
            try:
                live = self.client.get_table(self._name(table), retry=RETRY, timeout=REQUEST_SECONDS)
            except exceptions.NotFound:
                return {}
            again: dict[str, Any] = {"retry": RETRY, "job_retry": RETRY}
            job = self.client.query(query, config, location=live.location, timeout=REQUEST_SECONDS, **again)
            rows = list(job.result(timeout=QUERY_SECONDS, **again))
        return {
            row.hour.astimezone(UTC): RowCounts(row.row_count, Tally(row.ids, (row.lane0, row.lane1, row.lane2, row.lane3)))
            for row in rows
        }

    def _create(self, table: Table) -> None:
        made = bigquery.Table(self._name(table), [to_field(column) for column in table.columns])
        made.time_partitioning = bigquery.TimePartitioning(type_=bigquery.TimePartitioningType.HOUR, field=table.partition_by)
        made.require_partition_filter = True
        self.client.create_table(made, retry=RETRY, timeout=REQUEST_SECONDS)

    def _name(self, table: Table) -> str:
        return f"{self.project}.{self.dataset}.{table.name}"

    @property
    def client(self) -> bigquery.Client:
        """The client; TableStoreError where there are no credentials to make it with."""
        if self._client is None:
            # The client finds the emulator by itself, but looks for credentials all the same.
            emulated = "BIGQUERY_EMULATOR_HOST" in os.environ  # noqa: TID251
            try:
                self._client = bigquery.Client(self.project, AnonymousCredentials() if emulated else None)
            except auth_exceptions.DefaultCredentialsError as error:
                raise TableStoreError(f"{self._uri}: no credentials: run `gcloud auth application-default login`") from error
        return self._client

    @contextmanager
    def _translate_errors(self, what: str) -> Iterator[None]:
        """Turns the client's errors into TableStoreError."""
        try:
            yield
        except exceptions.Forbidden as error:
            raise TableStoreError(
                f"{self._uri}: {what}: not allowed: {error.message}. "
                "It takes roles/bigquery.dataEditor on the dataset and roles/bigquery.jobUser on the project"
            ) from error
        except (exceptions.RetryError, TimeoutError) as error:
            raise TableStoreError(f"{self._uri}: {what}: gave up waiting: {getattr(error, 'cause', None) or error}") from error
        except (exceptions.GoogleAPICallError, auth_exceptions.GoogleAuthError, requests.exceptions.RequestException) as error:
            raise TableStoreError(f"{self._uri}: {what}: {error}") from error


def _check_ended(job: bigquery.LoadJob) -> None:
    if job.state != "DONE":
        job.reload(retry=RETRY, timeout=REQUEST_SECONDS)
    if job.state != "DONE":
        raise _Running(f"job {job.job_id} is still {job.state}: a call with the same id waits on")


def _check_partitioning(live: bigquery.Table, table: Table) -> None:
    how = live.time_partitioning
    if how is None or how.type_ != "HOUR" or how.field != table.partition_by:
        raise TableStoreError(
            f"table {live.full_table_id or table.name} is not partitioned by the hour of {table.partition_by}, "
            "and a partitioning can't change: rename that table, and this one is made anew"
        )


def _reasons(job: bigquery.LoadJob) -> str:
    """BigQuery's own words on a load from Avro: they name files and fields, not values."""
    errors = job.errors or [job.error_result]
    return "; ".join(f"{error.get('reason')}: {error.get('message', '')[:300]}" for error in errors[:3])
