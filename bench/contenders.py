"""What is compared: ways to bring the same messages to Avro files, a file or more for each event type and hour."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import apache_beam as beam
import orjson
from apache_beam.io import fileio
from apache_beam.io.gcp.pubsub import PubsubMessage
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms.window import FixedWindows, GlobalWindow
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue
from fastavro import parse_schema
from fastavro import writer as write_avro
from fastavro.write import Writer

from pipelines.deliver import LOCAL_SHARDS, Plan, build
from pipelines.runners import LOCAL, beam_options
from publisher.simulate import Simulated, simulate
from schemas import envelope
from schemas.contracts import Contracts, load_contracts
from schemas.envelope import Message, format_time
from schemas.payload import decode
from schemas.rows import row_schema
from transforms.buckets.directory import Directory
from transforms.clocks import Fixed, new_id
from transforms.closing import CommitBuckets
from transforms.delivering import BOOKS, PACKS, Receive, WriteParts
from transforms.parts import CODEC
from transforms.receive import Receiver
from transforms.tables.duckdb_file import DuckDBFile
from transforms.windows import Hourly

SEED = 1
END = datetime(2026, 1, 31, 12, tzinfo=UTC)
HOURS = 2
"""With the simulator's eight types these are few enough files for `WriteToFiles` to keep all of them open: 20 at a time."""

LATENESS = timedelta(days=7)

Contender = Callable[[int, Path, str], None]
"""Brings that many messages into the folder. The last argument is the topic for reports, which must be there."""


@cache
def messages(events: int) -> tuple[PubsubMessage, ...]:
    """The first good JSON messages of the simulator, no event twice, as Pub/Sub would deliver them."""
    traffic = simulate(SEED, events * 8 // 7 + 50, HOURS, END)
    good = (one for one in traffic if one.reason is None and not one.copy and one.content_type != envelope.AVRO)
    return tuple(map(_message, islice(good, events)))


def _message(one: Simulated) -> PubsubMessage:
    attributes = {
        envelope.EVENT_TYPE: one.event_type,
        envelope.EVENT_ID: one.event_id,
        envelope.SCHEMA_VERSION: one.schema_version,
        envelope.CONTENT_TYPE: one.content_type,
        envelope.SENT_AT: format_time(one.sent_at),
        envelope.RECEIVED_AT: format_time(one.received_at),
    }
    said = {name: str(value) for name, value in attributes.items() if value is not None}
    return PubsubMessage(one.data, said, f"message-{one.event_id}", one.received_at)


def bare_loop(events: int, folder: Path, _topic: str) -> None:
    """The least that anyone can do: one process, no Beam, no checks."""
    schemas = _unchecked_schemas()
    rows: dict[tuple[str, str], list[Any]] = {}
    for message in messages(events):
        attributes = message.attributes
        row = orjson.loads(message.data)
        row[envelope.EVENT_ID] = attributes[envelope.EVENT_ID]
        rows.setdefault((attributes[envelope.EVENT_TYPE], attributes[envelope.RECEIVED_AT][:13]), []).append(row)
    for (event_type, hour), records in rows.items():
        with (folder / f"{event_type}-{hour}.avro").open("wb") as file:
            write_avro(file, schemas[event_type], records, codec=CODEC)


def textbook(events: int, folder: Path, _topic: str) -> None:
    """The pipeline as Beam's documentation teaches it."""
    schemas = _unchecked_schemas()
    with beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"])) as pipeline:
        _ = (
            pipeline
            | _Messages(events)
            | beam.Map(_parse)
            | beam.WindowInto(FixedWindows(3600))
            | fileio.WriteToFiles(
                path=str(folder),
                destination=lambda record: record[0],
                sink=lambda event_type: _AvroSink(schemas[event_type]),
                file_naming=fileio.destination_prefix_naming(suffix=".avro"),
            )
        )


def deliver_files(events: int, folder: Path, _topic: str) -> None:
    """Our graph up to receipts: checked, counted, each event once, and durable."""
    contracts, buckets, hourly = load_contracts(), Directory(folder), Hourly(LATENESS, ends=True)
    schemas = {kind: row_schema(contracts.newest(kind)) for kind in contracts.types}
    with beam.Pipeline(options=beam_options(LOCAL, [])) as pipeline:
        received = pipeline | _Messages(events) | Receive(contracts, LATENESS, LOCAL_SHARDS)
        parts = received[PACKS] | WriteParts(buckets, schemas, hourly)
        _ = {"Received": received[BOOKS], "Parts": parts} | CommitBuckets(buckets, Fixed(END), hourly)


def deliver_all(events: int, folder: Path, audit_topic: str) -> None:
    """The graph that ships, whole: receipts, table partitions and reports."""
    tables = DuckDBFile(folder / "tables.duckdb")
    plan = Plan(
        source=_Messages(events),
        ends=True,
        started=END,
        contracts=load_contracts(),
        buckets=Directory(folder),
        tables=tables,
        audit_topic=audit_topic,
        allowed_lateness=LATENESS,
        shards=LOCAL_SHARDS,
    )
    try:
        with beam.Pipeline(options=beam_options(LOCAL, [])) as pipeline:
            build(pipeline, plan)
    finally:
        tables.close()


def decode_step(events: int, _folder: Path, _topic: str) -> None:
    """Parses and checks every payload; nothing else."""
    contracts = load_contracts()
    for message in messages(events):
        attributes = message.attributes
        event_type = attributes[envelope.EVENT_TYPE]
        contract = contracts.get(event_type, attributes.get(envelope.SCHEMA_VERSION))
        content_type = attributes.get(envelope.CONTENT_TYPE, envelope.JSON)
        decode(contract, contracts.newest(event_type), message.data, content_type)


def receive_step(events: int, _folder: Path, _topic: str) -> None:
    """All that the first step does, without Beam: decode, check, stamp, encode, count, pack."""
    receiver = Receiver(load_contracts(), LATENESS, LOCAL_SHARDS, new_id)
    for message in messages(events):
        receiver.add(Message(message.data, message.attributes, message.message_id, message.publish_time))
    receiver.finish()


CONTENDERS: Mapping[str, Contender] = {
    "bare loop": bare_loop,
    "textbook": textbook,
    "deliver, files": deliver_files,
    "deliver, files and tables": deliver_all,
}
"""Each leaves every event in Avro files below its folder."""

STEPS: Mapping[str, Contender] = {"decode alone": decode_step, "receive, without Beam": receive_step}
"""Parts of deliver. They leave nothing."""


class _Messages(beam.PTransform):  # type: ignore[misc]
    """A bounded source whose messages are in memory. As with Pub/Sub's own, an element's time comes with it."""

    def __init__(self, events: int) -> None:
        super().__init__()
        self._events = events

    def expand(self, begin: beam.Pipeline) -> beam.PCollection:
        return begin | beam.Create([self._events]) | beam.FlatMap(_elements).with_output_types(PubsubMessage)


def _elements(events: int) -> Iterator[WindowedValue]:
    return (WindowedValue(message, moment, (GlobalWindow(),)) for message, moment in _with_times(events))


@cache
def _with_times(events: int) -> tuple[tuple[PubsubMessage, Timestamp], ...]:
    return tuple((message, Timestamp.of(message.publish_time.timestamp())) for message in messages(events))


def _parse(message: PubsubMessage) -> tuple[str, Any]:
    row = json.loads(message.data)
    row[envelope.EVENT_ID] = message.attributes[envelope.EVENT_ID]
    return message.attributes[envelope.EVENT_TYPE], row


class _AvroSink(fileio.FileSink):  # type: ignore[misc]
    def __init__(self, schema: Any) -> None:
        self._schema = schema

    def open(self, fh: BinaryIO) -> None:
        self._writer = Writer(fh, self._schema, codec=CODEC)

    def write(self, record: tuple[str, Any]) -> None:
        self._writer.write(record[1])

    def flush(self) -> None:
        self._writer.flush()


def _unchecked_schemas() -> dict[str, Any]:
    """event type -> the schema of what JSON carries, and the event's id. Dates, moments, decimals and bytes stay text."""
    contracts: Contracts = load_contracts()
    schemas: dict[str, Any] = {}
    for kind in contracts.types:
        schema = _as_text(json.loads(contracts.newest(kind).path.read_text()))
        schema["fields"].append({"name": envelope.EVENT_ID, "type": "string"})
        schemas[kind] = parse_schema(schema)
    return schemas


def _as_text(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_as_text(one) for one in schema]
    if isinstance(schema, dict):
        return "string" if "logicalType" in schema else {name: _as_text(value) for name, value in schema.items()}
    return "string" if schema == "bytes" else schema
