"""python -m local.sql: one query as a table, CSV or JSON, and a one-line error for an invalid query."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path

import duckdb
import pytest

from local.sql import main
from tests.support.terminal import run_on_terminal

EVERY_TYPE = """
SELECT NULL AS nothing, '' AS empty, 'a,"b"' || chr(10) || 'c' AS text, true AS yes, 9007199254740993 AS big, 1.50 AS money,
    0.1::DOUBLE AS tenth, 'nan'::DOUBLE AS nan, '-inf'::DOUBLE AS low, '\\x00\\xFF'::BLOB AS bytes,
    TIMESTAMPTZ '2026-01-31 10:00:00.25+01' AS moment, TIMESTAMP '2026-01-31 09:00:00' AS local, DATE '2026-01-31' AS day,
    TIME '09:00:00.5' AS at, {'id': 1, 'seen': [TIMESTAMPTZ '2026-01-31 09:00:00Z', NULL]} AS track, MAP {'k': 1.5} AS map,
    []::INTEGER[] AS none, UUID '00000000-0000-0000-0000-000000000001' AS id, '{"a": [1, null]}'::JSON AS document
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    with duckdb.connect(tmp_path / "a.duckdb") as db:
        db.execute("CREATE TABLE words AS SELECT '[/red] :bug:' AS word")
        db.execute("CREATE TABLE numbers AS SELECT unnest(range(2500)) AS number")
    return tmp_path / "a.duckdb"


def test_main__csv_by_default(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(file), "SELECT word, NULL AS nothing FROM words"]) == 0
    assert capsys.readouterr().out == "word,nothing\n[/red] :bug:,\n"


def test_main__csv_values(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(file), EVERY_TYPE, "--format=csv"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[1].startswith(',"",'), "a NULL is an empty field, an empty text is quoted"
    [row] = csv.DictReader(io.StringIO(out))
    assert row == {
        "nothing": "",
        "empty": "",
        "text": 'a,"b"\nc',
        "yes": "true",
        "big": "9007199254740993",
        "money": "1.50",
        "tenth": "0.1",
        "nan": "NaN",
        "low": "-Infinity",
        "bytes": "AP8=",
        "moment": "2026-01-31T09:00:00.250000Z",
        "local": "2026-01-31T09:00:00",
        "day": "2026-01-31",
        "at": "09:00:00.500000",
        "track": '{"id": 1, "seen": ["2026-01-31T09:00:00Z", null]}',
        "map": '{"k": "1.5"}',
        "none": "[]",
        "id": "00000000-0000-0000-0000-000000000001",
        "document": '{"a": [1, null]}',
    }


def test_main__json_values(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(file), EVERY_TYPE, "--format=json"]) == 0
    assert json.loads(capsys.readouterr().out) == [
        {
            "nothing": None,
            "empty": "",
            "text": 'a,"b"\nc',
            "yes": True,
            "big": 9007199254740993,
            "money": "1.50",
            "tenth": 0.1,
            "nan": "NaN",
            "low": "-Infinity",
            "bytes": "AP8=",
            "moment": "2026-01-31T09:00:00.250000Z",
            "local": "2026-01-31T09:00:00",
            "day": "2026-01-31",
            "at": "09:00:00.500000",
            "track": {"id": 1, "seen": ["2026-01-31T09:00:00Z", None]},
            "map": {"k": "1.5"},
            "none": [],
            "id": "00000000-0000-0000-0000-000000000001",
            "document": {"a": [1, None]},
        }
    ]


@pytest.mark.parametrize("rows", [0, 1, 2, 999, 1000, 1001, 2500])
def test_main__json_rows(file: Path, rows: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows are read in batches of a thousand."""
    assert main([str(file), f"FROM numbers ORDER BY number LIMIT {rows}", "--format=json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"number": number} for number in range(rows)]


def test_main__csv_rows(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(file), "FROM numbers ORDER BY number"]) == 0
    assert capsys.readouterr().out.splitlines() == ["number", *map(str, range(2500))]


def test_main__json_names_repeated(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(file), "SELECT 1 AS a, 2 AS a, 3 AS b", "--format=json"]) == 2
    output = capsys.readouterr()
    assert (output.out, output.err) == ("", "error: several columns are named a. What to do: rename them with AS\n")


def test_main__table(file: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A table with more columns than fit is cut to the width of the terminal, and shows data unchanged."""
    monkeypatch.setenv("COLUMNS", "80")
    columns = ", ".join(f"{number} AS column_number_{number}" for number in range(17))
    assert main([str(file), f"SELECT word, {columns} FROM words", "--format=table"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert any("[/red] :bug:" in line for line in lines)
    assert any("18 columns" in line for line in lines)


@pytest.mark.slow
def test_main__table_on_terminal(file: Path) -> None:
    shown = run_on_terminal("-m", "local.sql", str(file), EVERY_TYPE)
    assert shown.status == 0
    assert "19 columns" in shown.text
    assert max(map(len, shown.lines)) <= 80


def test_main__query_from_input(file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments in ([], ["-"]):
        monkeypatch.setattr(sys, "stdin", io.StringIO("SELECT count(*) AS n\nFROM numbers; -- all of them\n"))
        assert main([str(file), *arguments]) == 0
        assert capsys.readouterr().out == "n\n2500\n"


def test_main__no_query_on_terminal(file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    with pytest.raises(SystemExit) as end:
        main([str(file)])
    assert end.value.code == 2
    assert "no query" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["table", "csv", "json"])
@pytest.mark.parametrize(
    "query", ["", ";", "-- nothing", "SELECT", "SELECT x FROM words", "DROP TABLE words", "SELECT error('x')"]
)
def test_main__no_answer(file: Path, query: str, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(file), query, f"--format={form}"]) == 2
    output = capsys.readouterr()
    assert output.err.startswith("error: ")
    assert "What to do: " in output.err
    assert output.err.count("\n") == 1
    assert output.out == ""


def test_main__line_of_error(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The excerpt that DuckDB prints on lines of its own becomes a line number."""
    assert main([str(file), "SELECT word\nFROM nothing_of_this_name"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: Catalog Error: Table with name nothing_of_this_name does not exist!")
    assert " (line 2 of the query). What to do: " in error


@pytest.mark.parametrize("form", ["table", "csv", "json"])
def test_main__several_statements(file: Path, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(file), "SELECT 1; SELECT 2;", f"--format={form}"]) == 2
    output = capsys.readouterr()
    assert (output.out, output.err) == ("", "error: there are 2 queries in one. What to do: run them one by one\n")


def test_main__no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none.duckdb"), "SELECT 1"]) == 2
    assert "does not exist" in capsys.readouterr().err
