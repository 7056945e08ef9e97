"""Command line that renders the template spec, the file from which Dataflow launches the template.

`gcloud dataflow flex-template build` is not used, since it silently drops `streaming` and the streaming modes.
"""

from __future__ import annotations

if __name__ == "__main__":
    from cli.interrupts import end_in_one_line

    end_in_one_line()

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from google.cloud.dataflow_v1beta3 import ContainerSpec, TemplateMetadata
from google.protobuf.json_format import ParseError

from cli.command import CommandParser, UserError, exit_status_of
from schemas.errors import EventDeliveryError

METADATA = Path(__file__).parent / "deliver" / "metadata.json"
SPEC = Path("build/templates/deliver.json")
IMAGE = "REGION-docker.pkg.dev/PROJECT/event-delivery/deliver:VERSION"


class TemplateError(EventDeliveryError):
    """Dataflow would reject or misread the metadata file. The message names the field and the problem."""


def render(metadata: str, image: str) -> dict[str, Any]:
    """Return the template spec as an object for JSON.

    Args:
        metadata: The text of the metadata file.
        image: The name of the image of launcher and workers.

    Raises:
        TemplateError: Dataflow's own message types reject the metadata or the image (unknown fields, unknown values, wrong
            types), or the regex of a parameter is invalid.
    """
    try:
        TemplateMetadata.from_json(metadata)
        spec = {
            "image": image,
            "sdkInfo": {"language": "PYTHON"},
            "metadata": json.loads(metadata),
            # The workers run the launcher's image, so that both have the same code and packages.
            "defaultEnvironment": {"sdkContainerImage": image, "enableStreamingEngine": True},
        }
        ContainerSpec.from_json(json.dumps(spec))
    except ParseError as error:
        raise TemplateError(f"Dataflow would reject this file: {error}") from error
    for parameter in spec["metadata"]["parameters"]:
        for regex in parameter.get("regexes", []):
            try:
                re.compile(regex)
            except re.error as error:
                raise TemplateError(f"parameter {parameter['name']}: {regex!r} is not a regex: {error}") from error
    return spec


def main(argv: Sequence[str]) -> int:
    """Write build/templates/deliver.json, print how to upload it, and return the exit status."""
    return exit_status_of(lambda: _write(argv))


def _write(argv: Sequence[str]) -> int:
    parser = CommandParser(
        prog="python -m templates.render", description=f"Write the Dataflow template spec of deliver to {SPEC}."
    )
    parser.add_argument(
        "image",
        nargs="?",
        default=IMAGE,
        help="name of the image built from templates/deliver/Dockerfile (default: the placeholder %(default)s)",
    )
    image = parser.parse_args(argv).image
    try:
        spec = render(METADATA.read_text(), image)
    except TemplateError as error:
        raise TemplateError(f"{METADATA}: {error}") from None
    try:
        SPEC.parent.mkdir(parents=True, exist_ok=True)
        SPEC.write_text(json.dumps(spec, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"{SPEC} can't be written: {error.strerror}") from None
    print(f"wrote {SPEC} for the image\n  {image}")
    if image == IMAGE:
        print(f"The image is a placeholder. Name your own:\n  python -m templates.render \\\n    {IMAGE}")
    print(f"Upload the spec:\n  gcloud storage cp {SPEC} \\\n    gs://BUCKET/templates/VERSION/deliver.json")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
