"""`--help` of every command fits a terminal of 80 columns."""

from __future__ import annotations

import argparse
from importlib import import_module

import pytest

from cli.help import ParagraphFormatter


def test_paragraph_formatter__layout() -> None:
    """Paragraphs are filled one by one; an indented one is left as it is."""
    text = "one\ntwo\n\n  a command \\\n    --flag\n\nthree"
    parser = argparse.ArgumentParser(usage="p", formatter_class=ParagraphFormatter, description=text)
    assert parser.format_help().startswith("usage: p\n\none two\n\n  a command \\\n    --flag\n\nthree\n\noptions:")


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("pipelines.deliver", []),
        ("pipelines.audit", []),
        ("pipelines.replay", []),
        ("pipelines.backfill", []),
        ("pipelines.missing", []),
        ("pipelines.reload", []),
        ("publisher.cli", []),
        ("publisher.cli", ["publish"]),
        ("publisher.cli", ["simulate"]),
        ("local.pubsub.__main__", []),
        ("local.sql", []),
        ("pipelines.check_contracts", []),
        ("templates.render", []),
        ("bench.deliver", []),
    ],
)
def test_help__eighty_columns(
    module: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as end:
        import_module(module).main([*arguments, "--help"])
    assert end.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("usage: python -m ")
    assert max(map(len, lines)) <= 80
