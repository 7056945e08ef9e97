"""From the words of a command line to a store."""

from __future__ import annotations

import re

from storage.objects.base import ObjectStore, StoreError
from storage.objects.local import Directory
from storage.tables.base import TableStore, TableStoreError

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def open_store(uri: str) -> ObjectStore:
    """The store that `uri` names: gs://bucket[/prefix], or the path of a directory. Reaches for nothing yet.

    Raises StoreError when it names neither.
    """
    if uri.startswith("gs://"):
        # Only here: whoever works in a directory needn't wait for Google's client to be imported.
        from storage.objects.gcs import CloudStorage

        return CloudStorage(uri)
    if not uri or _SCHEME.match(uri):
        raise StoreError(f"{uri!r} names no object store: give the path of a directory, or gs://bucket[/prefix]")
    return Directory(uri)


def open_tables(uri: str) -> TableStore:
    """The tables at `bigquery://project.dataset`, or in the DuckDB file at a path that ends in .duckdb.

    Touches nothing yet: `check_writable` does. Raises TableStoreError for any other address.
    """
    # Imported here because each brings a large library, and a run needs one of them.
    if uri.startswith("bigquery://"):
        from storage.tables.bigquery import BigQuery

        return BigQuery(uri)
    if uri.endswith(".duckdb") and "://" not in uri:
        from storage.tables.duckdb_file import DuckDBFile

        return DuckDBFile(uri)
    raise TableStoreError(f"{uri!r} names no tables: give bigquery://project.dataset, or a path that ends in .duckdb")
