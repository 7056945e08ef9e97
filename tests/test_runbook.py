"""The messages that the runbook quotes exist in the source."""

from __future__ import annotations

import re
from pathlib import Path

from schemas.outcomes import Reason

ROOT = Path(__file__).parents[1]
ROOMS = ("schemas", "storage", "transforms", "audit", "pipelines")


def source_text() -> str:
    """Return the source, with strings of several lines joined, and a dot for each value that is inserted."""
    source = "\n".join(file.read_text() for room in ROOMS for file in sorted((ROOT / room).rglob("*.py")))
    return re.sub(r"\{[^{}\n]*\}|%[ds]|%\.\df", ".", re.sub(r"\"\s*\n\s*f?\"", "", source))


def quoted_pieces() -> list[str]:
    """Return the quotes of the symptoms, split at dots, numbers and names in capitals."""
    symptoms = [line.split("|")[1] for line in (ROOT / "docs/runbook.md").read_text().splitlines() if line.startswith("| ")]
    quotes = [quote for symptom in symptoms for quote in re.findall(r"`(?:error: )?([^`]* [^`]*)`", symptom)]
    pieces = [piece.strip(" :") for quote in quotes for piece in re.split(r"\.\.\.|\b(?:\d+|N|[A-Z]{3,})\b", quote)]
    return [piece for piece in pieces if " " in piece]


def test_runbook__quotes_exist_in_the_source() -> None:
    source = source_text()
    assert len(quoted_pieces()) > 15
    of_the_system = {"No space left"}  # a message of the operating system
    assert [piece for piece in quoted_pieces() if piece not in source and piece not in of_the_system] == []


def test_runbook__explains_every_reason() -> None:
    section = (ROOT / "docs/runbook.md").read_text().split("## Reasons of dead letters")[1].split("\n## ")[0]
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    assert sorted(reason for cell in cells for reason in re.findall(r"`(\w+)`", cell)) == sorted(Reason)
