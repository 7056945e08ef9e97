"""Tables: where analysts query the hours. One interface, a DuckDB file or BigQuery behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from schemas.fingerprints import Tally
from schemas.tables import Table
from storage.objects.base import Buckets


class TablesError(Exception):
    """The store refused, or could not be reached after bounded retries. The message says what, where, and what to do."""


class NotLoaded(TablesError):
    """One partition could not be loaded. It says nothing of others, which may well be."""


class LoadFailed(NotLoaded):
    """A load job ended without effect; its id is used up. The partition is as it was.

    earlier: the job had failed before this call, which ran nothing; passing: the store was at fault, not the files, so that
    the same load may soon succeed.
    """

    def __init__(self, message: str, earlier: bool = False, passing: bool = False) -> None:
        super().__init__(message)
        self.earlier = earlier
        self.passing = passing


@dataclass(frozen=True)
class Facts:
    """What one hour of a table really holds. rows: all of them; distinct: the tally of their distinct ids."""

    rows: int
    distinct: Tally


class Tables(Protocol):
    """Tables of hour partitions. Safe for use by many threads of a process; can be pickled.

    A DuckDB file has one process at a time; a second one gets a TablesError that says so.
    """

    @property
    def uri(self) -> str:
        """The DuckDB file's absolute path, or bigquery://project.dataset."""

    def check_writable(self, buckets: Buckets) -> None:
        """Raises TablesError, saying what to do, when tables can't be written, or not from files in `buckets`."""

    def ensure(self, table: Table) -> None:
        """Makes the table if it is not there; adds the columns that it lacks, as NULLABLE (or REPEATED). Repeatable.

        Columns that only the table has are kept, and those that are no longer REQUIRED become NULLABLE. Raises TablesError
        when a column's type has changed.
        """

    def load(self, job_id: str, table: Table, hour: datetime, buckets: Buckets, files: Sequence[str]) -> int:
        """Replaces the hour's partition by the rows of Avro files, all or nothing, and returns the number of rows loaded.

        job_id: letters, digits, - and _; at most 1,024. A job that has succeeded under this id is not run
        again: its number of rows is returned. One that is still running is waited for. One that has failed
        raises LoadFailed, whether in this call or an earlier one: another try needs another id.
        Columns are matched by name; a column that a file lacks is NULL. A row whose `partition_by` lies
        outside the hour fails the load. `files` are names in `buckets`, one or more.
        """

    def facts(self, table: Table, first: datetime, last: datetime) -> Mapping[datetime, Facts]:
        """Counted by the engine: each hour from `first` to `last`, both included, that has rows. Empty without a table."""
