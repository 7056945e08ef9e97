"""python -m local.sql: rows as a table, and one line for what can't be asked."""

from __future__ import annotations

import sys
from pathlib import Path

import duckdb
import pytest

from local import sql


def ask(monkeypatch: pytest.MonkeyPatch, file: Path, query: str) -> int:
    monkeypatch.setattr(sys, "argv", ["sql", str(file), query])
    return sql.main()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    with duckdb.connect(tmp_path / "a.duckdb") as db:
        db.execute("CREATE TABLE words AS SELECT '[/red] :bug:' AS word")
    return tmp_path / "a.duckdb"


def test_rows_are_shown_as_they_are(monkeypatch, capsys, file):
    assert ask(monkeypatch, file, "SELECT word, NULL AS nothing FROM words") == 0
    assert "[/red] :bug:" in capsys.readouterr().out


@pytest.mark.parametrize("query", ["", ";", "-- nothing", "SELECT", "SELECT x FROM words", "DROP TABLE words"])
def test_what_is_no_query_is_one_error(monkeypatch, capsys, file, query):
    assert ask(monkeypatch, file, query) == 2
    told = capsys.readouterr()
    assert told.err.startswith("error: ")
    assert told.out == ""


def test_a_file_that_is_not_there_is_one_error(monkeypatch, capsys, tmp_path):
    assert ask(monkeypatch, tmp_path / "none.duckdb", "SELECT 1") == 2
    assert "does not exist" in capsys.readouterr().err
