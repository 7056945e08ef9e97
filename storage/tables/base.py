"""The interface of table stores, whose tables have one partition per hour and are queried by analysts.

`storage.tables.duckdb_file` implements it on a DuckDB file, `storage.tables.bigquery` on BigQuery.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from schemas.errors import EventDeliveryError
from schemas.fingerprints import Tally
from schemas.tables import Table
from storage.objects.base import ObjectStore


class TableStoreError(EventDeliveryError):
    """A table store refused a call, or could not be reached within a bounded number of retries.

    The message names the table or file, the cause and the remedy.
    """


class LoadError(TableStoreError):
    """One partition could not be loaded. Loads of other partitions may succeed all the same."""


class LoadJobFailed(LoadError):
    """A load job ended without effect. Its id is used up, and the partition is unchanged."""

    def __init__(self, message: str, already_failed: bool = False, transient: bool = False) -> None:
        """Create the error of a job.

        Args:
            message: The job, the cause and the remedy.
            already_failed: The job had failed before this call, which started none.
            transient: The table store caused the failure, not the files, so the same load may soon succeed.
        """
        super().__init__(message)
        self.already_failed = already_failed
        self.transient = transient


@dataclass(frozen=True)
class RowCounts:
    """Rows that were counted in one hour of a table, or in the files of one bucket."""

    rows: int = 0
    """Number of rows, with duplicates."""
    distinct: Tally = Tally()
    """Tally of the distinct ids."""


class TableStore(Protocol):
    """Tables with one partition per hour. Thread-safe and picklable.

    A DuckDB file can be open in one process at a time. All calls in a second process raise TableStoreError.
    """

    @property
    def uri(self) -> str:
        """Absolute path of the DuckDB file, or bigquery://project.dataset."""

    def check_writable(self, store: ObjectStore) -> None:
        """Check that tables can be written, and loaded from files in `store`.

        Raises:
            TableStoreError: They can't be. The message names the remedy.
        """

    def ensure(self, table: Table) -> None:
        """Create the table if it is missing, and add the columns that it lacks, as NULLABLE or REPEATED. Idempotent.

        No column is dropped. A REQUIRED column that is missing in `table`, or is not REQUIRED there, becomes NULLABLE.

        Raises:
            TableStoreError: A column exists with another type.
        """

    def load(self, job_id: str, table: Table, hour: datetime, store: ObjectStore, files: Sequence[str]) -> int:
        """Replace the partition of an hour with the rows of Avro files, atomically.

        Columns are matched by name, and a column that a file lacks is NULL. The load fails if a row's `partition_by` lies
        outside the hour.

        Idempotent: a job that succeeded under this id is not run again, and one that still runs is awaited. After a
        failure the id is used up, and another attempt needs another id.

        Args:
            job_id: At most 1,024 letters, digits, - and _.
            table: An existing table.
            hour: Start of the hour.
            store: Object store with the files.
            files: Names of one or more Avro files in `store`.

        Returns:
            Number of rows loaded, by this call or the earlier job.

        Raises:
            LoadJobFailed: The job failed, in this call or an earlier one.
            LoadError: The load could not be started, or another partition used the id.
            TableStoreError: The table store failed.
            ValueError: `files` is empty, or `hour` is not the start of an hour.
        """

    def row_counts(self, table: Table, first: datetime, last: datetime) -> Mapping[datetime, RowCounts]:
        """Count the rows of each hour from `first` to `last`, both included, with a query.

        Returns:
            Counts of the hours that have rows. Empty if the table does not exist.
        """
