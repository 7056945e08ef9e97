"""The flex template of deliver: metadata, image and spec match the flags, each other, and Google's own types."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from google.cloud.dataflow_v1beta3 import ContainerSpec, ParameterType, SDKInfo

from pipelines import deliver
from pipelines.arguments import duration
from storage.open import open_store, open_tables
from templates import render
from templates.deliver import main as launcher

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "templates" / "deliver" / "Dockerfile"
METADATA = render.METADATA.read_text()
PARAMETERS: dict[str, dict[str, Any]] = {parameter["name"]: parameter for parameter in json.loads(METADATA)["parameters"]}
NO_PARAMETERS = {"help", "runner", "mode", "flush_every"}
"""Flags without a parameter: the launcher sets the runner, and the others are for one machine."""

EXAMPLES = {
    "subscription": (
        ["projects/my-project/subscriptions/events", "projects/example.com:old-project/subscriptions/a.b_c~d+e%f-1"],
        ["", "events", "projects/p-1/topics/events", "projects/p-1/subscriptions/9lives", "projects/p-1/subscriptions/ab"],
    ),
    "audit_topic": (
        ["projects/my-project/topics/audit"],
        ["", "audit", "projects/my-project/subscriptions/audit", "projects//topics/audit", "projects/p-1/topics/audit\nmore"],
    ),
    "storage": (
        ["gs://my-bucket", "gs://my-bucket/", "gs://my.bucket/a/b=c"],
        ["", "folder", "gs://", "s3://my-bucket", "gs://b//c"],
    ),
    "tables": (["bigquery://my-project.events"], ["", "events.duckdb", "bigquery://my-project", "bigquery://my-project.a.b-c"]),
    "contracts": (["/template/contracts"], ["", "contracts"]),
    "allowed_lateness": (["90s", "15m", "36h", "7d"], ["", "7", "d", "7 d", "1d12h", "-1d", "7w"]),
    "dedup_horizon": (["90m", "24h", "7d"], ["", "24", "h", "1 d", "-1d"]),
}
"""Values that the form accepts and rejects, for each parameter. It accepts less than the flags: no local paths."""


def flags() -> dict[str, argparse.Action]:
    return {action.dest: action for action in deliver.parser()._actions if action.dest not in NO_PARAMETERS}


def matches(name: str, text: str) -> bool:
    return all(re.fullmatch(regex, text) for regex in PARAMETERS[name]["regexes"])


def changed(name: str, **fields: object) -> str:
    """Return the metadata with some fields of a parameter replaced."""
    metadata = json.loads(METADATA)
    next(parameter for parameter in metadata["parameters"] if parameter["name"] == name).update(fields)
    return json.dumps(metadata)


def test_metadata__has_the_flags_of_deliver() -> None:
    assert list(PARAMETERS) == list(flags())


def test_metadata__requires_the_required_flags_of_deliver() -> None:
    required = {name for name, parameter in PARAMETERS.items() if not parameter.get("isOptional", False)}
    assert required == {name for name, flag in flags().items() if flag.required}


def test_metadata__describes_every_parameter() -> None:
    """Each flag has a help text. Each parameter has a label, and a valid example."""
    assert [name for name, flag in flags().items() if not flag.help] == []
    assert [name for name, parameter in PARAMETERS.items() if not parameter["label"].strip()] == []
    shown = {name: re.search(r"Example: (\S+)$", parameter["helpText"]) for name, parameter in PARAMETERS.items()}
    assert [name for name, example in shown.items() if not (example and matches(name, example[1]))] == []


def test_metadata__has_the_defaults_of_the_flags() -> None:
    shown = {name: parameter["defaultValue"] for name, parameter in PARAMETERS.items() if "defaultValue" in parameter}
    assert shown.keys() == {"allowed_lateness", "dedup_horizon"}
    assert duration(shown["allowed_lateness"]) == flags()["allowed_lateness"].default == timedelta(days=7)
    assert duration(shown["dedup_horizon"]) == flags()["dedup_horizon"].default == timedelta(days=1)


@pytest.mark.parametrize("name", PARAMETERS)
def test_metadata__regexes_of_parameters(name: str) -> None:
    good, bad = EXAMPLES[name]
    assert [value for value in good if not matches(name, value)] == []
    assert [value for value in bad if matches(name, value)] == []


@pytest.mark.parametrize("name", ["subscription", "audit_topic", "allowed_lateness"])
def test_metadata__accepts_the_values_of_the_flags(name: str) -> None:
    read = flags()[name].type
    assert callable(read)
    good, bad = EXAMPLES[name]
    for value in good:
        read(value)
    for value in bad:
        with pytest.raises(argparse.ArgumentTypeError):
            read(value)


def test_metadata__accepts_names_of_stores() -> None:
    """Every accepted example opens an object store or a table store."""
    for value in EXAMPLES["storage"][0]:
        assert open_store(value).uri == value.rstrip("/")
    for value in EXAMPLES["tables"][0]:
        assert open_tables(value).uri == value


def test_render__passes_the_message_types_of_dataflow() -> None:
    spec = ContainerSpec.from_json(json.dumps(render.render(METADATA, "europe-docker.pkg.dev/p/r/deliver:1")))
    assert spec.image == spec.default_environment.sdk_container_image == "europe-docker.pkg.dev/p/r/deliver:1"
    assert spec.sdk_info.language == SDKInfo.Language.PYTHON
    assert spec.metadata.streaming
    assert spec.metadata.supports_exactly_once
    assert [parameter.name for parameter in spec.metadata.parameters] == list(PARAMETERS)
    assert all(parameter.param_type != ParameterType.DEFAULT for parameter in spec.metadata.parameters)


@pytest.mark.parametrize(
    ("metadata", "problem"),
    [
        (changed("tables", helptext="a field that is not there"), "helptext"),
        (changed("tables", paramType="BIGQUERY"), "BIGQUERY"),
        (changed("tables", isOptional="sometimes"), "isOptional"),
        (changed("tables", regexes=["("]), "parameter tables"),
        (METADATA.replace('"streaming"', '"defaultEnvironment": {}, "streaming"'), "defaultEnvironment"),
        (METADATA[:-10], "would reject"),
    ],
)
def test_render__rejects_metadata_that_dataflow_rejects(metadata: str, problem: str) -> None:
    """Metadata that Dataflow would misread are rejected too."""
    with pytest.raises(render.TemplateError, match=problem):
        render.render(metadata, render.IMAGE)


def test_main__writes_the_spec_for_the_given_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert render.main(["example.com/image:1"]) == 0
    assert json.loads(render.SPEC.read_text()) == render.render(METADATA, "example.com/image:1")
    assert str(render.SPEC) in capsys.readouterr().out


def test_main__eighty_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Also with the placeholder, which is longer than most names of images."""
    monkeypatch.chdir(tmp_path)
    assert render.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8
    assert max(map(len, lines)) <= 80


def test_launcher__always_runs_on_dataflow(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []

    def deliver_main(argv: Sequence[str]) -> int:
        calls.append(list(argv))
        return 0

    monkeypatch.setattr(deliver, "main", deliver_main)
    assert launcher.main(["--tables=bigquery://p.d", "--region=europe-west4"]) == 0
    assert calls == [["--tables=bigquery://p.d", "--region=europe-west4", "--runner=DataflowRunner"]]


def test_dockerfile__has_the_versions_of_the_lock() -> None:
    """Beam has the locked version, and all stages have the same Python, the first choice of the Makefile."""
    dockerfile = DOCKERFILE.read_text()
    beam = re.search(r"^apache-beam==(\S+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    assert beam
    assert re.findall(r"^ARG BEAM=(.*)$", dockerfile, re.MULTILINE) == [beam[1]]
    (python,) = re.findall(r"^ARG PYTHON=(.*)$", dockerfile, re.MULTILINE)
    launchers = re.findall(r"dataflow-templates-base/(\w+)-template-launcher-base", dockerfile)
    assert launchers == [f"python{python.replace('.', '')}"]
    images = re.findall(r"^FROM (?!gcr\.io/)(\S+)", dockerfile, re.MULTILINE)
    assert set(images) == {"apache/beam_python${PYTHON}_sdk:${BEAM}", "python:${PYTHON}-slim"}
    assert f"PYTHONS := $(PYTHON) python{python} " in (ROOT / "Makefile").read_text()


def test_dockerfile__installs_nothing_at_launch() -> None:
    """The image's only setting is the launcher's program."""
    settings = [line for line in DOCKERFILE.read_text().splitlines() if line.startswith("ENV ")]
    assert settings == ["ENV FLEX_TEMPLATE_PYTHON_PY_FILE=/template/main.py"]


def test_dockerfile__copies_existing_files() -> None:
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE.read_text(), re.MULTILINE)
    assert [name for names in copied for name in names.split() if not (ROOT / name).exists()] == []


def test_dockerfile__passes_hadolint() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    linted = subprocess.run([hadolint, "--no-color", DOCKERFILE], check=False, capture_output=True, text=True)
    assert (linted.returncode, linted.stdout) == (0, "")
