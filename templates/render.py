"""Renders the spec of the template: what Dataflow reads from Cloud Storage to launch it.

Not by `gcloud dataflow flex-template build`: it drops `streaming` and the streaming modes without a word.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from google.cloud.dataflow_v1beta3 import ContainerSpec, TemplateMetadata
from google.protobuf.json_format import ParseError

from schemas.errors import EventDeliveryError

METADATA = Path(__file__).parent / "deliver" / "metadata.json"
SPEC = Path("build/templates/deliver.json")
IMAGE = "REGION-docker.pkg.dev/PROJECT/event-delivery/deliver:VERSION"


class TemplateError(EventDeliveryError):
    """A metadata file that Dataflow would refuse or misread. The message says where, and what is wrong."""


def render(metadata: str, image: str) -> dict[str, Any]:
    """The spec of a template, from the text of its metadata file and the name of its image.

    Raises TemplateError when Dataflow's own message types refuse one of the two (unknown fields, unknown
    values, wrong types), or when a parameter's regex can't be compiled.
    """
    try:
        TemplateMetadata.from_json(metadata)
        spec = {
            "image": image,
            "sdkInfo": {"language": "PYTHON"},
            "metadata": json.loads(metadata),
            # The workers run the launcher's image, so that both have the same code and the same packages.
            "defaultEnvironment": {"sdkContainerImage": image, "enableStreamingEngine": True},
        }
        ContainerSpec.from_json(json.dumps(spec))
    except ParseError as error:
        raise TemplateError(f"Dataflow would refuse it: {error}") from error
    for parameter in spec["metadata"]["parameters"]:
        for regex in parameter.get("regexes", []):
            try:
                re.compile(regex)
            except re.error as error:
                raise TemplateError(f"parameter {parameter['name']}: {regex!r} is not a regex: {error}") from error
    return spec


def main(argv: Sequence[str]) -> int:
    """Writes build/templates/deliver.json, and says where it goes from there."""
    flags = argparse.ArgumentParser(
        prog="python -m templates.render", description="Renders the spec of the template of deliver."
    )
    flags.add_argument("image", nargs="?", default=IMAGE, help="the image that templates/deliver/Dockerfile was built to")
    image = flags.parse_args(argv).image
    try:
        spec = render(METADATA.read_text(), image)
    except TemplateError as error:
        print(f"error: {METADATA}: {error}", file=sys.stderr)
        return 2
    SPEC.parent.mkdir(parents=True, exist_ok=True)
    SPEC.write_text(json.dumps(spec, indent=2) + "\n")
    print(f"{SPEC}: rendered for the image {image}")
    if image == IMAGE:
        print(f"That name is a placeholder. For your own: python -m templates.render {IMAGE}")
    print("Upload it: gcloud storage cp build/templates/deliver.json gs://BUCKET/templates/VERSION/deliver.json")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
