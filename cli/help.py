"""How `--help` is laid out."""

from __future__ import annotations

import argparse


class ParagraphFormatter(argparse.HelpFormatter):
    """Keep the paragraphs of a description apart, and leave indented ones, such as commands, as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = text.strip("\n").split("\n\n")
        return "\n\n".join(
            paragraph if paragraph.startswith(" ") else super(ParagraphFormatter, self)._fill_text(paragraph, width, indent)
            for paragraph in paragraphs
        )
