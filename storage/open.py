"""From the words of a command line to a store."""

from __future__ import annotations

import re

from storage.objects.base import Buckets, BucketsError
from storage.objects.local import Directory
from storage.tables.base import Tables, TablesError

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def open_buckets(uri: str) -> Buckets:
    """The store that `uri` names: gs://bucket[/prefix], or the path of a directory. Reaches for nothing yet.

    Raises BucketsError when it names neither.
    """
    if uri.startswith("gs://"):
        # Only here: whoever works in a directory needn't wait for Google's client to be imported.
        from storage.objects.gcs import CloudStorage

        return CloudStorage(uri)
    if not uri or _SCHEME.match(uri):
        raise BucketsError(f"{uri!r} names no buckets: give the path of a directory, or gs://bucket[/prefix]")
    return Directory(uri)


def open_tables(uri: str) -> Tables:
    """The tables at `bigquery://project.dataset`, or in the DuckDB file at a path that ends in .duckdb.

    Touches nothing yet: `check_writable` does. Raises TablesError for any other address.
    """
    # Imported here because each brings a large library, and a run needs one of them.
    if uri.startswith("bigquery://"):
        from storage.tables.bigquery import BigQuery

        return BigQuery(uri)
    if uri.endswith(".duckdb") and "://" not in uri:
        from storage.tables.duckdb_file import DuckDBFile

        return DuckDBFile(uri)
    raise TablesError(f"{uri!r} names no tables: give bigquery://project.dataset, or a path that ends in .duckdb")
