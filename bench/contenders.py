"""Contenders of the benchmark: pipelines that write the same messages to Avro files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import apache_beam as beam
import orjson
from apache_beam.io import fileio
from apache_beam.io.gcp.pubsub import PubsubMessage
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms.window import FixedWindows, GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue, create
from fastavro import parse_schema
from fastavro import writer as write_avro
from fastavro.write import Writer

from bench.events import HOUR, fields, messages, write_contracts
from pipelines.graph import LOCAL_SHARDS, Plan, build
from pipelines.runners import LOCAL, beam_options
from schemas import envelope
from schemas.envelope import micros
from schemas.registry.contracts import load_contracts
from schemas.row_schemas import row_schema
from schemas.tables import tables_of
from schemas.transcoder import transcoder
from storage.buckets.part_files import CODEC
from storage.objects.local import Directory
from storage.tables.duckdb_file import DuckDBFile
from transforms.clocks import Fixed, new_id
from transforms.commit.transform import CommitBuckets
from transforms.decode.decoder import Decoder
from transforms.decode.transform import PACKS, Decode
from transforms.dedup.delivered_index import DeliveredIndexes
from transforms.windows import HourlyWindows
from transforms.write.transform import WriteDataFiles

LATENESS = timedelta(days=7)
HORIZON = timedelta(hours=24)

AFTER_HOUR = HOUR + timedelta(hours=2)
"""The time at which the contenders run, by their own clock: the hour of the events is over, so its buckets are closed."""

Contender = Callable[[int, Path, str], None]
"""A function of a number of messages, the folder to write them to, and the topic for reports, which must exist."""


def bare_loop(events: int, folder: Path, _topic: str) -> None:
    """Write all events to one Avro file with orjson and fastavro: the least work possible.

    No Beam, no separation by event type or hour, no checks.
    """
    rows = (_row(orjson.loads(message.data), message) for message in messages(events))
    with (folder / "events.avro").open("wb") as file:
        write_avro(file, _SCHEMA, rows, codec=CODEC)


def textbook(events: int, folder: Path, _topic: str) -> None:
    """Run the pipeline that Beam's documentation teaches: parse, hourly windows, `WriteToFiles`."""
    with beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"])) as pipeline:
        _ = (
            pipeline
            | _Messages(events)
            | beam.Map(lambda message: (message.attributes[envelope.EVENT_TYPE], _row(json.loads(message.data), message)))
            | beam.WindowInto(FixedWindows(3600))
            | fileio.WriteToFiles(
                path=str(folder),
                destination=lambda record: record[0],
                sink=lambda _: _AvroSink(),
                file_naming=fileio.destination_prefix_naming(suffix=".avro"),
            )
        )


def deliver_files(events: int, folder: Path, _topic: str) -> None:
    """Run deliver up to the manifests: events are checked, counted, deduplicated and durable."""
    contracts, store, windows = load_contracts(_contracts(folder)), Directory(folder), HourlyWindows(LATENESS, bounded=True)
    schemas = {event_type: row_schema(contracts.newest(event_type)) for event_type in contracts.types}
    delivered = DeliveredIndexes(store, HORIZON)
    with beam.Pipeline(options=beam_options(LOCAL, [])) as pipeline:
        decoded = pipeline | _Messages(events) | Decode(contracts, LATENESS, LOCAL_SHARDS, None)
        data_files = decoded[PACKS] | WriteDataFiles(store, schemas, windows, delivered, bounded=True)
        _ = {"Data files": data_files} | CommitBuckets(store, Fixed(AFTER_HOUR), windows, delivered, None, bounded=True)


def deliver_all(events: int, folder: Path, audit_topic: str) -> None:
    """Run all of deliver: manifests, table partitions and reports."""
    tables, contracts = DuckDBFile(folder / "tables.duckdb"), load_contracts(_contracts(folder))
    for table in tables_of(contracts).values():
        tables.ensure(table)
    plan = Plan(
        source=_Messages(events),
        bounded=True,
        run_started_at=AFTER_HOUR,
        contracts=contracts,
        store=Directory(folder),
        tables=tables,
        audit_topic=audit_topic,
        allowed_lateness=LATENESS,
        horizon=HORIZON,
        shards=LOCAL_SHARDS,
    )
    try:
        with beam.Pipeline(options=beam_options(LOCAL, [])) as pipeline:
            build(pipeline, plan)
    finally:
        tables.close()


def transcode_step(events: int, folder: Path, _topic: str) -> None:
    """Parse, check and encode every payload; nothing else."""
    contracts = load_contracts(_contracts(folder))
    for message in messages(events):
        contract = contracts.newest(message.attributes[envelope.EVENT_TYPE])
        transcoder(contract, contract, envelope.JSON)(message.data)


def decode_step(events: int, folder: Path, _topic: str) -> None:
    """Run deliver's first step without Beam: decode, check, stamp, encode, pack."""
    decoder = Decoder(load_contracts(_contracts(folder)), LATENESS, LOCAL_SHARDS, new_id)
    for message in messages(events):
        decoder.add(message)
    decoder.finish()


CONTENDERS: Mapping[str, Contender] = {
    "bare loop": bare_loop,
    "textbook": textbook,
    "deliver, files": deliver_files,
    "deliver, files and tables": deliver_all,
}
"""Contenders by name. Each must write every event to an Avro file below its folder."""

STEPS: Mapping[str, Contender] = {"payloads alone": transcode_step, "decode, without Beam": decode_step}
"""Parts of deliver by name. They write no events."""

_SCHEMA = parse_schema(
    {"type": "record", "name": "event", "fields": [{"name": envelope.EVENT_ID, "type": "string"}, *fields()]}
)

_GLOBAL = (GlobalWindow(),)


def _contracts(folder: Path) -> Path:
    return write_contracts(folder / "contracts")


def _row(row: dict[str, Any], message: PubsubMessage) -> dict[str, Any]:
    row[envelope.EVENT_ID] = message.attributes[envelope.EVENT_ID]
    return row


class _Messages(beam.PTransform):  # type: ignore[misc]
    """A bounded source of messages in memory. As in Beam's Pub/Sub source, each element is created with its timestamp."""

    def __init__(self, events: int) -> None:
        super().__init__()
        self._events = events

    def expand(self, begin: beam.Pipeline) -> beam.PCollection:
        return begin | beam.Create([self._events]) | beam.FlatMap(_elements).with_output_types(PubsubMessage)


def _elements(events: int) -> Iterator[WindowedValue]:
    return (create(message, timestamp, _GLOBAL) for message, timestamp in _with_timestamps(events))


@cache
def _with_timestamps(events: int) -> tuple[tuple[PubsubMessage, int], ...]:
    """Return the messages with their publish time in microseconds."""
    return tuple((message, micros(message.publish_time)) for message in messages(events))


class _AvroSink(fileio.FileSink):  # type: ignore[misc]
    def open(self, fh: BinaryIO) -> None:
        self._writer = Writer(fh, _SCHEMA, codec=CODEC)

    def write(self, record: tuple[str, Any]) -> None:
        self._writer.write(record[1])

    def flush(self) -> None:
        self._writer.flush()
