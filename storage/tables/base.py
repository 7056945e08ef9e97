"""Tables: where analysts query the hours. One interface, a DuckDB file or BigQuery behind it."""

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
    """The store refused, or could not be reached after bounded retries. The message says what, where, and what to do."""


class LoadError(TableStoreError):
    """One partition could not be loaded. It says nothing of others, which may well be."""


class LoadJobFailed(LoadError):
    """A load job ended without effect; its id is used up. The partition is as it was.

    already_failed: the job had failed before this call, which ran nothing; transient: the store was at fault, not the files, so
    that the same load may soon succeed.
    """

    def __init__(self, message: str, already_failed: bool = False, transient: bool = False) -> None:
        super().__init__(message)
        self.already_failed = already_failed
        self.transient = transient


@dataclass(frozen=True)
class RowCounts:
    """What an hour of a table, or of a bucket's files, really holds. rows: all of them; distinct: the tally of their
    distinct ids."""

    rows: int = 0
    distinct: Tally = Tally()


class TableStore(Protocol):
    """Tables of hour partitions. Safe for use by many threads of a process; can be pickled.

    A DuckDB file has one process at a time; a second one gets a TableStoreError that says so.
    """

    @property
    def uri(self) -> str:
        """The DuckDB file's absolute path, or bigquery://project.dataset."""

    def check_writable(self, store: ObjectStore) -> None:
        """Raises TableStoreError, saying what to do, when tables can't be written, or not from files in `store`."""

    def ensure(self, table: Table) -> None:
        """Makes the table if it is not there; adds the columns that it lacks, as NULLABLE (or REPEATED). Repeatable.

        Columns that only the table has are kept, and those that are no longer REQUIRED become NULLABLE. Raises TableStoreError
        when a column's type has changed.
        """

    def load(self, job_id: str, table: Table, hour: datetime, store: ObjectStore, files: Sequence[str]) -> int:
        """Replaces the hour's partition by the rows of Avro files, all or nothing, and returns the number of rows loaded.

        job_id: letters, digits, - and _; at most 1,024. A job that has succeeded under this id is not run
        again: its number of rows is returned. One that is still running is waited for. One that has failed
        raises LoadJobFailed, whether in this call or an earlier one: another try needs another id.
        Columns are matched by name; a column that a file lacks is NULL. A row whose `partition_by` lies
        outside the hour fails the load. `files` are names in `store`, one or more.
        """

    def row_counts(self, table: Table, first: datetime, last: datetime) -> Mapping[datetime, RowCounts]:
        """Counted by the engine: each hour from `first` to `last`, both included, that has rows. Empty without a table."""
