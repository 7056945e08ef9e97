"""What the runbook quotes is what the program says."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOMS = ("schemas", "storage", "transforms", "audit", "pipelines")


def said() -> str:
    """The source, with a text that goes over several lines as one, and one dot for each value that is put into it."""
    source = "\n".join(file.read_text() for room in ROOMS for file in sorted((ROOT / room).rglob("*.py")))
    return re.sub(r"\{[^{}\n]*\}|%[ds]|%\.\df", ".", re.sub(r"\"\s*\n\s*f?\"", "", source))


def quoted() -> list[str]:
    """What the symptoms quote, in the pieces that lie between the dots, numbers and names in capitals."""
    symptoms = [line.split("|")[1] for line in (ROOT / "docs/runbook.md").read_text().splitlines() if line.startswith("| ")]
    quotes = [quote for symptom in symptoms for quote in re.findall(r"`(?:error: )?([^`]* [^`]*)`", symptom)]
    pieces = [piece.strip(" :") for quote in quotes for piece in re.split(r"\.\.\.|\b(?:\d+|N|[A-Z]{3,})\b", quote)]
    return [piece for piece in pieces if " " in piece]


def test_what_the_runbook_quotes_is_said() -> None:
    source = said()
    assert len(quoted()) > 15
    of_the_system = {"No space left"}
    assert [piece for piece in quoted() if piece not in source and piece not in of_the_system] == []
