"""The graph as Dataflow gets it, and as a stream, built without a network."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.io.gcp.pubsub import ReadFromPubSub
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing import test_stream
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.utils.windowed_value import PaneInfoTiming

from pipelines.deliver import parser
from pipelines.graph import DATAFLOW_SHARDS, Plan, build
from pipelines.runners import DATAFLOW, beam_options, parse
from schemas.registry.contracts import load_contracts
from storage.objects.gcs import CloudStorage
from storage.tables.bigquery import BigQuery
from transforms.windows import HourlyWindows

pytestmark = pytest.mark.integration

STARTED = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)


def test_build__labels_of_a_running_job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Dataflow accepts the graph, and its labels are those of running jobs, so that these can be updated."""
    monkeypatch.setattr("apache_beam.internal.gcp.auth._Credentials._credentials_init", True)
    flags = ["--project=project-one", "--region=europe-west1", "--temp_location=gs://bucket-one/temp", "--dry_run=True"]
    plan = Plan(
        source=ReadFromPubSub(subscription="projects/project-one/subscriptions/events", with_attributes=True),
        bounded=False,
        run_started_at=STARTED,
        contracts=load_contracts(),
        store=CloudStorage("gs://bucket-one/events"),
        tables=BigQuery("bigquery://project-one.events"),
        audit_topic="projects/project-one/topics/audit",
        allowed_lateness=timedelta(days=7),
        horizon=timedelta(days=1),
        shards=DATAFLOW_SHARDS,
    )
    pipeline = beam.Pipeline(options=beam_options(DATAFLOW, flags))
    build(pipeline, plan)
    job = pipeline.run()
    names = {transform.unique_name for transform in job.job.proto_pipeline.components.transforms.values()}
    labels = sorted(name for name in names if name and not name.startswith("ref_"))
    assert labels == (Path(__file__).parent / "labels.txt").read_text().splitlines()
    # The default label of a lambda contains its line number, which changes. Only Beam's own steps in core.py have such labels.
    assert [name for name in names if "lambda" in name and "FlatMap(<lambda at core.py" not in name] == []


def test_hourly_windows__early_and_on_time_panes() -> None:
    """A stream fires during the hour and at its end, and emits each element once."""
    hour = STARTED.replace(minute=0).timestamp()
    stream = (
        test_stream.TestStream()
        .advance_watermark_to(hour)
        .add_elements([beam.window.TimestampedValue(("k", "early"), hour + 60)])
        .advance_processing_time(601)
        .add_elements([beam.window.TimestampedValue(("k", "in time"), hour + 120)])
        .advance_watermark_to(hour + 3601)
        .advance_watermark_to_infinity()
    )
    options = PipelineOptions(["--streaming", "--runner=BundleBasedDirectRunner"])
    with beam.Pipeline(options=options) as pipeline:
        panes = (
            pipeline
            | stream
            | "By hour" >> HourlyWindows(timedelta(days=7), bounded=False)
            | beam.GroupByKey()
            | "Pane"
            >> beam.Map(lambda keyed, pane=beam.DoFn.PaneInfoParam: (PaneInfoTiming.to_string(pane.timing), list(keyed[1])))
        )
        assert_that(panes, equal_to([("EARLY", ["early"]), ("ON_TIME", ["in time"])]))


def test_hourly_windows__element_a_month_late() -> None:
    hour = STARTED.replace(minute=0).timestamp()
    stream = (
        test_stream.TestStream()
        .advance_watermark_to(hour + 31 * 86_400)
        .add_elements([beam.window.TimestampedValue(("k", "31 days behind"), hour)])
        .advance_watermark_to_infinity()
    )
    options = PipelineOptions(["--streaming", "--runner=BundleBasedDirectRunner"])
    with beam.Pipeline(options=options) as pipeline:
        grouped = pipeline | stream | HourlyWindows(timedelta(days=1), bounded=False) | beam.GroupByKey()
        found = grouped | beam.FlatMap(lambda keyed: keyed[1])
        assert_that(found, equal_to(["31 days behind"]))


def test_parse__flags_of_beam(capsys: pytest.CaptureFixture[str]) -> None:
    """Beam's own flags are accepted, unknown ones refused."""
    required = [
        "--subscription=projects/p-one/subscriptions/sss",
        "--storage=gs://bucket-one",
        "--tables=bigquery://p-one.d",
        "--audit_topic=projects/p-one/topics/ttt",
    ]
    flags, rest = parse(parser(), [*required, "--region=europe-west1", "--max_num_workers=9"])
    assert rest == ["--region=europe-west1", "--max_num_workers=9"]
    assert flags.allowed_lateness == timedelta(days=7)
    with pytest.raises(SystemExit):
        parse(parser(), [*required, "--regiom=europe-west1"])
    assert "--regiom=europe-west1" in capsys.readouterr().err
