"""A table store in a BigQuery dataset. One load job replaces an hour partition with files in Cloud Storage."""

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
"""Most source URIs of a load job, a quota of BigQuery (https://cloud.google.com/bigquery/quotas#load_jobs)."""

REQUEST_SECONDS = 60.0
"""Seconds that one request may take before it is retried."""

QUERY_SECONDS = 600.0
"""Seconds that a query may take, with its retries."""

_TRANSIENT_REASONS = {
    "rateLimitExceeded",
    "backendError",
    "internalError",
    "badGateway",
    "jobRateLimitExceeded",
    "jobBackendError",
}
_TRANSIENT_ERRORS = (
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
    """Return whether the same request may succeed later."""
    reasons = {detail.get("reason") for detail in getattr(error, "errors", ())}
    return isinstance(error, _TRANSIENT_ERRORS) or bool(reasons & _TRANSIENT_REASONS)


class _Running(Exception):
    """A job has not ended yet."""


RETRY = Retry(predicate=_is_transient, initial=0.5, maximum=20.0, multiplier=2.0, timeout=180.0)
"""Retry policy of requests. The delay is random, up to a limit that doubles from 0.5 s to 20 s. Gives up after 180 s."""

_FIND_JOB = Retry(
    predicate=lambda error: isinstance(error, exceptions.NotFound) or _is_transient(error), initial=0.5, timeout=60.0
)
"""Retry policy for reading a job whose id is taken, because BigQuery may not find such a job for a moment."""

_WAIT = Retry(predicate=if_exception_type(_Running), initial=0.2, maximum=10.0, multiplier=2.0, timeout=3600.0)
"""Retry policy for polling a running job. Gives up after an hour."""

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
    """Table store in a BigQuery dataset.

    Requests are retried on transient errors for 3 minutes, and a load job is awaited for up to an hour. After that,
    TableStoreError is raised.
    """

    def __init__(self, uri: str, client: bigquery.Client | None = None) -> None:
        """Create a table store without accessing the network.

        Args:
            uri: bigquery://project.dataset.
            client: Not pickled. If None, it is created on first use: for the emulator if BIGQUERY_EMULATOR_HOST
                (http://host:port) is set, else with the default credentials.

        Raises:
            TableStoreError: `uri` has another form.
        """
        match = re.fullmatch(r"bigquery://([a-z0-9][a-z0-9:.-]+)\.([A-Za-z0-9_]+)", uri)
        if not match:
            raise TableStoreError(f"{uri!r} is no BigQuery dataset. What to do: give bigquery://project.dataset")
        self._uri, self.project, self.dataset = uri, match[1], match[2]
        self._client = client

    def __reduce__(self) -> tuple[type[BigQuery], tuple[str]]:
        return BigQuery, (self._uri,)

    @property
    def uri(self) -> str:
        return self._uri

    def check_writable(self, store: ObjectStore) -> None:
        """Check that the dataset exists, and that `store` is in Cloud Storage.

        Raises:
            TableStoreError: One of the two is not the case. The message names the remedy.
        """
        if not store.uri.startswith("gs://"):
            raise TableStoreError(
                f"{self._uri}: BigQuery can load from Cloud Storage only, not from {store.uri}."
                " What to do: give an object store gs://bucket or gs://bucket/prefix"
            )
        with self._translate_errors("can't look up the dataset"):
            try:
                self.client.get_dataset(f"{self.project}.{self.dataset}", retry=RETRY, timeout=REQUEST_SECONDS)
            except exceptions.NotFound as error:
                raise TableStoreError(
                    f"{self._uri}: the dataset does not exist. What to do: create it in the location of the object store"
                    f" (here: US): bq --location=US mk --dataset {self.project}:{self.dataset}"
                ) from error

    def ensure(self, table: Table) -> None:
        """Create or widen the table as TableStore specifies.

        A new table is partitioned by hour, and refuses queries without a filter on `partition_by`. Its partitions don't
        expire. BigQuery allows 10,000 per table, 416 days of hours, so the operator has to choose an expiration.
        """
        name = self._name(table)
        with self._translate_errors(f"can't create or widen table {table.name}"):
            for _ in range(5):
                try:
                    live = self.client.get_table(name, retry=RETRY, timeout=REQUEST_SECONDS)
                except exceptions.NotFound:
                    try:
                        self._create(table)
                        return
                    except exceptions.Conflict:
                        continue  # Created concurrently, or by an attempt whose response was lost.
                _check_partitioning(live, table)
                schema = merged(table.name, live.schema, table.columns)
                if schema == list(live.schema):
                    return
                live.schema = schema
                try:
                    self.client.update_table(live, ["schema"], retry=RETRY, timeout=REQUEST_SECONDS)
                    return
                except exceptions.PreconditionFailed:
                    continue  # Changed since it was read.
        raise TableStoreError(
            f"{self._uri}: can't create or widen table {table.name}: it was changed during each of 5 attempts."
            " What to do: run the command again when no other program changes the table"
        )

    def load(self, job_id: str, table: Table, hour: datetime, store: ObjectStore, files: Sequence[str]) -> int:
        """Load files as TableStore specifies. Raise LoadError, without starting a job, for more than MAX_FILES files."""
        if not files:
            raise ValueError("a load needs at least one file")
        if hour_of(hour) != hour:
            raise ValueError(f"{hour} is not the start of an hour")
        failure = f"can't load the hour {hour:%Y-%m-%dT%H} of table {table.name}"
        if len(files) > MAX_FILES:
            raise LoadError(
                f"{self._uri}: {failure}: it has {len(files)} files, but a load job takes at most {MAX_FILES}."
                " What to do: merge some of them"
            )
        client = self.client
        with self._translate_errors(failure):
            live = client.get_table(self._name(table), retry=RETRY, timeout=REQUEST_SECONDS)
            target = bigquery.DatasetReference(self.project, self.dataset).table(f"{table.name}${hour:%Y%m%d%H}")
            config = _load_config(live.schema)
            common: dict[str, Any] = {"location": live.location, "timeout": REQUEST_SECONDS}
            already_failed = False
            try:
                uris = [f"{store.uri}/{file}" for file in files]
                job = client.load_table_from_uri(uris, target, job_id=job_id, job_config=config, retry=RETRY, **common)
            except exceptions.Conflict:
                existing = client.get_job(job_id, retry=_FIND_JOB, **common)
                if not isinstance(existing, bigquery.LoadJob) or existing.destination != target:
                    raise LoadError(
                        f"{self._uri}: {failure}: another job has used the id {job_id}."
                        " What to do: give this load an id of its own"
                    ) from None
                job, already_failed = existing, existing.state == "DONE"
            _WAIT(_check_ended)(job)
        if job.error_result:
            transient = job.error_result.get("reason") in _TRANSIENT_REASONS
            raise LoadJobFailed(f"{self._uri}: {failure}: job {job_id} failed: {_reasons(job)}", already_failed, transient)
        if job.output_rows is None:
            raise TableStoreError(f"{self._uri}: {failure}: BigQuery returned no row count for job {job_id}")
        return int(job.output_rows)

    def row_counts(self, table: Table, first: datetime, last: datetime) -> Mapping[datetime, RowCounts]:
        """Count rows as TableStore specifies, with one query job that reads two columns of these hours."""
        query = _ROW_COUNTS.format(lanes=_LANES, when=table.partition_by, id=table.id_column, table=self._name(table))
        bounds = [
            bigquery.ScalarQueryParameter("first", "TIMESTAMP", first),
            bigquery.ScalarQueryParameter("end", "TIMESTAMP", last + HOUR),
        ]
        config = bigquery.QueryJobConfig(query_parameters=bounds)
        with self._translate_errors(f"can't count the rows of table {table.name}"):
            try:
                live = self.client.get_table(self._name(table), retry=RETRY, timeout=REQUEST_SECONDS)
            except exceptions.NotFound:
                return {}
            retries: dict[str, Any] = {"retry": RETRY, "job_retry": RETRY}
            job = self.client.query(query, config, location=live.location, timeout=REQUEST_SECONDS, **retries)
            rows = list(job.result(timeout=QUERY_SECONDS, **retries))
        return {
            row.hour.astimezone(UTC): RowCounts(row.row_count, Tally(row.ids, (row.lane0, row.lane1, row.lane2, row.lane3)))
            for row in rows
        }

    def _create(self, table: Table) -> None:
        new = bigquery.Table(self._name(table), [to_field(column) for column in table.columns])
        new.time_partitioning = bigquery.TimePartitioning(type_=bigquery.TimePartitioningType.HOUR, field=table.partition_by)
        new.require_partition_filter = True
        self.client.create_table(new, retry=RETRY, timeout=REQUEST_SECONDS)

    def _name(self, table: Table) -> str:
        return f"{self.project}.{self.dataset}.{table.name}"

    @property
    def client(self) -> bigquery.Client:
        """The client, created on first use. Raises TableStoreError if there are no credentials."""
        if self._client is None:
            # The client reads this variable too, but even then it looks for default credentials.
            emulated = "BIGQUERY_EMULATOR_HOST" in os.environ  # noqa: TID251
            try:
                self._client = bigquery.Client(self.project, AnonymousCredentials() if emulated else None)
            except auth_exceptions.DefaultCredentialsError as error:
                raise TableStoreError(
                    f"{self._uri}: no credentials were found. What to do: run gcloud auth application-default login"
                ) from error
        return self._client

    @contextmanager
    def _translate_errors(self, failure: str) -> Iterator[None]:
        """Raise errors of the client as TableStoreError, with `failure` in the message."""
        try:
            yield
        except exceptions.Forbidden as error:
            raise TableStoreError(
                f"{self._uri}: {failure}: permission denied: {error.message}. What to do: give the account the roles"
                " roles/bigquery.dataEditor on the dataset and roles/bigquery.jobUser on the project"
            ) from error
        except (exceptions.RetryError, TimeoutError) as error:
            cause = getattr(error, "cause", None) or error
            raise TableStoreError(
                f"{self._uri}: {failure}: gave up waiting: {cause}."
                " What to do: check the network and status.cloud.google.com, then run the command again"
            ) from error
        except (exceptions.GoogleAPICallError, auth_exceptions.GoogleAuthError, requests.exceptions.RequestException) as error:
            raise TableStoreError(f"{self._uri}: {failure}: {error}") from error


def _load_config(schema: Sequence[bigquery.SchemaField]) -> bigquery.LoadJobConfig:
    """Return the configuration of a load job that replaces a partition of a table with this schema."""
    return bigquery.LoadJobConfig(
        # Given so that it applies to every file. Otherwise BigQuery would use the schema of the last file by name, which may
        # lack columns of the others.
        schema=schema,
        source_format=bigquery.SourceFormat.AVRO,
        use_avro_logical_types=True,
        decimal_target_types=["NUMERIC", "BIGNUMERIC"],
        create_disposition=bigquery.CreateDisposition.CREATE_NEVER,
        write_disposition=bigquery.WriteDisposition.WRITE_TRUNCATE,
    )


def _check_ended(job: bigquery.LoadJob) -> None:
    """Reload the job if it has not ended. Raise _Running if it still runs."""
    if job.state != "DONE":
        job.reload(retry=RETRY, timeout=REQUEST_SECONDS)
    if job.state != "DONE":
        raise _Running(f"job {job.job_id} is still {job.state}, and a repeated load waits for it again")


def _check_partitioning(live: bigquery.Table, table: Table) -> None:
    partitioning = live.time_partitioning
    if partitioning is None or partitioning.type_ != "HOUR" or partitioning.field != table.partition_by:
        raise TableStoreError(
            f"table {live.full_table_id or table.name} is not partitioned by the hour of {table.partition_by}, and the"
            " partitioning of a table can't change. What to do: rename the table and run the command again, which creates it"
        )


def _reasons(job: bigquery.LoadJob) -> str:
    """Return BigQuery's messages on a load from Avro, which contain files and fields, but no values."""
    errors = job.errors or [job.error_result]
    return "; ".join(f"{error.get('reason')}: {error.get('message', '')[:300]}" for error in errors[:3])
