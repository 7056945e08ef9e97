"""Opening tables by their address."""

from __future__ import annotations

from transforms.tables import Tables, TablesError


def open_tables(uri: str) -> Tables:
    """The tables at `bigquery://project.dataset`, or in the DuckDB file at a path that ends in .duckdb.

    Touches nothing yet: `check_writable` does. Raises TablesError for any other address.
    """
    # Imported here because each brings a large library, and a run needs one of them.
    if uri.startswith("bigquery://"):
        from transforms.tables.bigquery import BigQuery

        return BigQuery(uri)
    if uri.endswith(".duckdb") and "://" not in uri:
        from transforms.tables.duckdb_file import DuckDBFile

        return DuckDBFile(uri)
    raise TablesError(f"{uri!r} names no tables: give bigquery://project.dataset, or a path that ends in .duckdb")
