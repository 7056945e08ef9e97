"""Runners: what can run a pipeline, and Beam's own flags."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from apache_beam.options.pipeline_options import DirectOptions, GoogleCloudOptions, PipelineOptions, TestOptions
from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator

from pipelines.command import UserError

DATAFLOW = "DataflowRunner"
LOCAL = "FnApiRunner"
PRISM = "PrismRunner"
_RUNNERS = {
    DATAFLOW: ["--runner=DataflowRunner"],
    LOCAL: ["--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner"],
    # The steps run in this process. Prism fails a job whose source it has tried to split while a bundle was slow.
    PRISM: ["--runner=PrismRunner", "--environment_type=LOOPBACK", "--experiments=prism_disable_sdf_split"],
}


def add_runner(parser: argparse.ArgumentParser) -> None:
    """The flag that every pipeline has."""
    parser.add_argument(
        "--runner",
        choices=[DATAFLOW, LOCAL],
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
    """Beam's options for one of our runners. Streaming is on: the source has no end of its own.

    Raises UserError for options that do not go together.
    """
    options = PipelineOptions([*rest, *_RUNNERS[runner], "--streaming"])
    # Beam takes any text for a yes, also "False".
    if options.view_as(TestOptions).dry_run not in (False, "True", "true"):
        raise UserError("--dry_run takes True. Leave it out to run.")
    if is_dry_run(options):
        _check_dry_run(runner, options)
    if runner == LOCAL and options.view_as(DirectOptions).direct_running_mode == "multi_processing":
        raise UserError(f"{LOCAL} reads Pub/Sub in this process: leave --direct_running_mode=multi_processing out")
    return options


def is_dry_run(options: PipelineOptions) -> bool:
    """Whether the job is only to be built."""
    return bool(options.view_as(TestOptions).dry_run)


def _check_dry_run(runner: str, options: PipelineOptions) -> None:
    """Refuses what Beam would leave undone, or ask the network for."""
    if runner != DATAFLOW:
        raise UserError(f"--dry_run builds a job for {DATAFLOW}; {runner} has none. Add --runner={DATAFLOW}.")
    cloud = options.view_as(GoogleCloudOptions)
    if cloud.template_location:
        raise UserError("a dry run writes no template: leave --template_location out, or use --dataflow_job_file=FILE")
    missing = [f"--{name}" for name in ("project", "region", "temp_location") if not getattr(cloud, name)]
    if missing:
        raise UserError(f"a dry run does not ask the network for what is missing: add {', '.join(missing)}")
    # Where this path is wrong, Beam would make a bucket.
    if problems := PipelineOptionsValidator(options, None).validate_gcs_path(cloud, "temp_location"):
        raise UserError(problems[0])
