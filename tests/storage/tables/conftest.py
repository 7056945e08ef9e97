"""The table stores for which the contract of TableStore is tested."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.tables import Store, bigquery_store, duckdb_store, real_store


@pytest.fixture(params=["duckdb", "bigquery", pytest.param("real", marks=pytest.mark.integration)])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    if request.param == "duckdb":
        with duckdb_store(tmp_path) as duckdb:
            yield duckdb
    elif request.param == "bigquery":
        with bigquery_store(monkeypatch) as (bigquery, _, _):
            yield bigquery
    else:
        yield real_store()
