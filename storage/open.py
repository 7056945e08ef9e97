"""Open an object store or a table store by its address on the command line."""

from __future__ import annotations

import re

from storage.objects.base import ObjectStore, StoreError
from storage.objects.local import Directory
from storage.tables.base import TableStore, TableStoreError

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def open_store(uri: str) -> ObjectStore:
    """Return the object store at `uri`: gs://bucket[/prefix], or the path of a directory.

    Neither the network nor the disk is accessed: `check_writable` does that.

    Raises:
        StoreError: `uri` is neither of the two.
    """
    if uri.startswith("gs://"):
        # Imported on demand: a run on a directory need not wait for the import of Google's client.
        from storage.objects.gcs import CloudStorage

        return CloudStorage(uri)
    if not uri or _SCHEME.match(uri):
        raise StoreError(f"{uri!r} is no object store. What to do: give the path of a directory, or gs://bucket[/prefix]")
    return Directory(uri)


def open_tables(uri: str) -> TableStore:
    """Return the table store at `uri`: bigquery://project.dataset, or the path of a DuckDB file that ends in .duckdb.

    Neither the network nor the disk is accessed: `check_writable` does that.

    Raises:
        TableStoreError: `uri` is neither of the two.
    """
    # Imported on demand: each client is a large library, and a run needs only one of them.
    if uri.startswith("bigquery://"):
        from storage.tables.bigquery import BigQuery

        return BigQuery(uri)
    if uri.endswith(".duckdb") and "://" not in uri:
        from storage.tables.duckdb_file import DuckDBFile

        return DuckDBFile(uri)
    raise TableStoreError(
        f"{uri!r} is no table store. What to do: give bigquery://project.dataset, or a path that ends in .duckdb"
    )
