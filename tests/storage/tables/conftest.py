"""The stores that the contract of tables is tested over."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.tables import Store, bigquery_store, duckdb_store, real_store


@pytest.fixture(params=["duckdb", "bigquery", pytest.param("real", marks=pytest.mark.slow)])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    if request.param == "duckdb":
        with duckdb_store(tmp_path) as one:
            yield one
    elif request.param == "bigquery":
        with bigquery_store(monkeypatch) as (one, _, _):
            yield one
    else:
        yield real_store()
