"""The runners of the pipelines, and Beam's own flags and options."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from apache_beam.options.pipeline_options import DirectOptions, GoogleCloudOptions, PipelineOptions, TestOptions
from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator

from cli.command import CommandParser, UserError

DATAFLOW = "DataflowRunner"
LOCAL = "FnApiRunner"
PRISM = "PrismRunner"
_RUNNERS = {
    DATAFLOW: ["--runner=DataflowRunner"],
    LOCAL: ["--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner"],
    # LOOPBACK runs the steps in this process. Without the experiment, Prism tries to split the source while a bundle is slow,
    # and then the job fails.
    PRISM: ["--runner=PrismRunner", "--environment_type=LOOPBACK", "--experiments=prism_disable_sdf_split"],
}


def add_runner(parser: argparse.ArgumentParser) -> None:
    """Add --runner."""
    parser.add_argument(
        "--runner",
        choices=[DATAFLOW, LOCAL],
        default=LOCAL,
        help=f"{LOCAL} (the default): run in this process; {DATAFLOW}: run on Dataflow. Beam's own flags, such as --region, "
        "are accepted too",
    )


def parse(parser: argparse.ArgumentParser, argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return the command's own flags, and the arguments that are Beam's. An unknown flag ends the process with an error."""
    flags, beam_arguments = parser.parse_known_args(argv)
    beam_parser = CommandParser(prog=parser.prog, add_help=False)
    for options in PipelineOptions.__subclasses__():
        options._add_argparse_args(beam_parser)  # noqa: SLF001 - Beam itself collects its flags this way
    _, unknown = beam_parser.parse_known_args([argument for argument in beam_arguments if argument != "--"])
    if unknown:
        parser.error(f"unknown: {' '.join(unknown)}")
    return flags, beam_arguments


def beam_options(runner: str, beam_arguments: Sequence[str]) -> PipelineOptions:
    """Return Beam's options for a runner. They are always streaming options, because the source is unbounded.

    Raises:
        UserError: some options exclude each other.
    """
    options = PipelineOptions([*beam_arguments, *_RUNNERS[runner], "--streaming"])
    # Beam reads any text as true, even "False".
    if options.view_as(TestOptions).dry_run not in (False, "True", "true"):
        raise UserError("--dry_run must be True. What to do: pass --dry_run=True, or omit it to run the job")
    if is_dry_run(options):
        _check_dry_run(runner, options)
    if runner == LOCAL and options.view_as(DirectOptions).direct_running_mode == "multi_processing":
        raise UserError(f"{LOCAL} reads Pub/Sub in this process. What to do: omit --direct_running_mode=multi_processing")
    return options


def is_dry_run(options: PipelineOptions) -> bool:
    """Return whether the job is only built, not started."""
    return bool(options.view_as(TestOptions).dry_run)


def _check_dry_run(runner: str, options: PipelineOptions) -> None:
    """Raise UserError for options that Beam ignores in a dry run, or for which it uses the network."""
    if runner != DATAFLOW:
        raise UserError(f"--dry_run builds a {DATAFLOW} job; {runner} has none. What to do: add --runner={DATAFLOW}")
    cloud = options.view_as(GoogleCloudOptions)
    if cloud.template_location:
        raise UserError("a dry run writes no template. What to do: omit --template_location, or pass --dataflow_job_file=FILE")
    missing = [f"--{name}" for name in ("project", "region", "temp_location") if not getattr(cloud, name)]
    if missing:
        raise UserError(
            f"a dry run needs flags that are looked up on the network otherwise. What to do: add {', '.join(missing)}"
        )
    # Beam creates a bucket if this path is invalid.
    if problems := PipelineOptionsValidator(options, None).validate_gcs_path(cloud, "temp_location"):
        raise UserError(problems[0])
