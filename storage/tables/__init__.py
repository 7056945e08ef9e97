"""Table stores: a DuckDB file or BigQuery."""
