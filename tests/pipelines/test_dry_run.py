"""A dry run builds Dataflow's job from the command line, without network, credentials or existing resources."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from base64 import b64decode
from pathlib import Path

import pytest
from apache_beam.portability.api import beam_runner_api_pb2

from tests.support.clock import PATIENCE

pytestmark = pytest.mark.integration

LABELS = Path(__file__).parent / "labels.txt"
FLAGS = {
    "runner": "DataflowRunner",
    "dry_run": "True",
    "subscription": "projects/project-one/subscriptions/events",
    "storage": "gs://bucket-one/events",
    "tables": "bigquery://project-one.events",
    "audit_topic": "projects/project-one/topics/audit",
    "project": "project-one",
    "region": "europe-west1",
    "temp_location": "gs://bucket-one/temp",
}
NO_NETWORK = """
import socket
def refuse(*_):
    raise SystemExit("used the network")
socket.socket.connect = socket.getaddrinfo = refuse
"""


def deliver(folder: Path, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run deliver in a process without broker and credentials that exits on any use of the network."""
    (folder / "sitecustomize.py").write_text(NO_NETWORK)
    unset = ("PUBSUB_EMULATOR_HOST", "NO_GCE_CHECK", "GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_CLOUD_PROJECT")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment |= {"HOME": str(folder), "PYTHONPATH": f"{folder}{os.pathsep}{os.getcwd()}"}
    flags = [f"--{name}={value}" for name, value in (FLAGS | changes).items() if value]
    command = [sys.executable, "-m", "pipelines.deliver", *flags]
    # Without a network, looking for credentials alone would take longer than this.
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=PATIENCE, check=False)


def test_dry_run__builds_the_job(tmp_path: Path) -> None:
    """The job is built and named on one line, and its graph can be read."""
    done = deliver(tmp_path, dataflow_job_file=str(tmp_path / "job.json"))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("dry run: job beamapp-")
    assert "not checked" in done.stdout
    assert done.stdout.count("\n") == 1
    transforms = json.loads((tmp_path / "job.json").read_text())["components"]["transforms"].values()
    labels = {transform["uniqueName"] for transform in transforms if transform.get("uniqueName")}
    [payload] = [step["spec"]["payload"] for step in transforms if "pubsub_read" in step.get("spec", {}).get("urn", "")]
    assert beam_runner_api_pb2.PubSubReadPayload.FromString(b64decode(payload)).id_attribute == "dedup_key"
    assert set(LABELS.read_text().splitlines()) <= labels


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("storage", "out", "--storage=gs://"),
        ("tables", "out.duckdb", "--tables=bigquery://"),
        ("runner", "FnApiRunner", "--runner=DataflowRunner"),
        ("dry_run", "False", "--dry_run must be True"),
        ("project", "", "--project"),
        ("region", "", "--region"),
        ("temp_location", "", "--temp_location"),
        ("temp_location", "/somewhere", "temp_location"),
        ("template_location", "/somewhere", "--template_location"),
        ("dataflow_job_file", "/nowhere/job.json", "/nowhere/job.json"),
        ("job_name", "Not A Name", "Not A Name"),
    ],
)
def test_dry_run__invalid_flags(tmp_path: Path, name: str, value: str, problem: str) -> None:
    done = deliver(tmp_path, **{name: value})
    assert (done.returncode, done.stdout) == (2, "")
    assert problem in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("name", "value"), [("storage", "out"), ("tables", "out.duckdb")])
def test_deliver__dataflow_with_a_local_store(tmp_path: Path, name: str, value: str) -> None:
    done = deliver(tmp_path, dry_run="", **{name: value})
    assert done.returncode == 2
    assert "can't access the files of this machine" in done.stderr
