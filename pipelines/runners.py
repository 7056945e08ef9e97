"""Runners: what can run a pipeline, and Beam's own flags."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from apache_beam.options.pipeline_options import PipelineOptions

DATAFLOW = "DataflowRunner"
LOCAL = "FnApiRunner"
_RUNNERS = {DATAFLOW: DATAFLOW, LOCAL: "apache_beam.runners.portability.fn_api_runner.FnApiRunner"}


def add_runner(parser: argparse.ArgumentParser) -> None:
    """The flag that every pipeline has."""
    parser.add_argument(
        "--runner",
        choices=sorted(_RUNNERS),
        default=LOCAL,
        help=f"{LOCAL} (the default) is this process; {DATAFLOW} takes Beam's own flags too, such as --region",
    )


def parse(parser: argparse.ArgumentParser, argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Our flags, and Beam's as they came. A flag that neither knows ends the program with a clear error."""
    ours, rest = parser.parse_known_args(argv)
    beams = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for options in PipelineOptions.__subclasses__():
        options._add_argparse_args(beams)  # noqa: SLF001 - how Beam itself gathers its flags
    _, unknown = beams.parse_known_args([argument for argument in rest if argument != "--"])
    if unknown:
        parser.error(f"unknown: {' '.join(unknown)}")
    return ours, rest


def beam_options(runner: str, rest: Sequence[str]) -> PipelineOptions:
    """Beam's options for one of our runners. Streaming is on: the source has no end of its own."""
    return PipelineOptions([*rest, f"--runner={_RUNNERS[runner]}", "--streaming"])
