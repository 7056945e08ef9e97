"""File scans count the rows of files, and no damage of a file ends an audit or goes unnoticed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import pytest
from apache_beam.io.gcp.pubsub import PubsubMessage

from audit.duplicate_verifier import DuplicateVerifier
from audit.file_scan import see_dead_letters, see_events
from schemas.buckets import DEAD_LETTERS, Bucket
from schemas.fingerprints import Tally, id_hash
from schemas.registry.contracts import Contract, Contracts
from schemas.row_schemas import dead_letter_schema, row_schema
from schemas.shards import Shard
from storage.buckets.committable import combine
from storage.buckets.listing import buckets_of, event_types_of
from storage.buckets.manifest import Manifest
from storage.objects.local import Directory
from storage.tables.base import RowCounts
from tests.support.contracts import contract_of, field
from transforms.clocks import new_id
from transforms.commit.commit import commit
from transforms.decode.decoder import Decoder
from transforms.dedup.delivered_index import DeliveredIndexes
from transforms.write.stage import stage_records

HOUR = datetime(2026, 1, 31, 9, tzinfo=UTC)
EARLY = HOUR - timedelta(days=9)
WHOLE = Shard(0, 1)
CONTRACT: Contract = contract_of(field("x", "long"))


@pytest.fixture
def store(tmp_path: Path) -> Directory:
    return Directory(tmp_path)


def deliver(store: Directory, *messages: tuple[bytes, dict[str, str]]) -> dict[str, Manifest]:
    """Deliver messages that were published at the hour's start, each into a data file of its own.

    Returns:
        stream -> its last manifest
    """
    decoder = Decoder(Contracts({"thing": {None: CONTRACT, "1": CONTRACT}}), timedelta(days=1), 1, new_id)
    manifests = {}
    for number, (data, attributes) in enumerate(messages):
        decoder.add(PubsubMessage(data, attributes, f"m{number}", HOUR))
        [packed] = decoder.finish()
        schema = dead_letter_schema() if packed.bucket.stream == DEAD_LETTERS else row_schema(CONTRACT)
        delivered = DeliveredIndexes(store, timedelta(days=1))
        committable = stage_records(store, packed.bucket, WHOLE, [packed.data], schema, delivered.of(packed.bucket.stream))
        [manifest] = commit(store, packed.bucket, combine([committable]), True, lambda: HOUR, lambda: "again", delivered)
        manifests[packed.bucket.stream] = manifest
    return manifests


def thing(event_id: str, data: bytes = b'{"x": 1}', **attributes: str) -> tuple[bytes, dict[str, str]]:
    return data, {"event_type": "thing", "event_id": event_id, **attributes}


def test_see_events__hour_of_publishing(store: Directory) -> None:
    """Events are counted for the hour that they were published for."""
    manifests = deliver(store, thing("a"), thing("late", received_at=EARLY.isoformat()), thing("b"))
    seen = see_events(store, manifests["thing"], DuplicateVerifier(store))
    assert (seen.row_counts, seen.unreadable, seen.unexpected) == (RowCounts(3, Tally.of_ids(["a", "late", "b"])), (), ())
    assert seen.ids == {HOUR: {id_hash("a"), id_hash("b")}, EARLY: {id_hash("late")}}


@pytest.mark.parametrize(
    ("stamp", "hour"),
    [
        ({}, HOUR),
        ({"received_at": EARLY.isoformat()}, EARLY),
        ({"received_at": "soon"}, HOUR),
        ({"received_at": "0001-01-01T00:00:00+09:00"}, HOUR),
        ({"received_at": (HOUR + timedelta(days=1)).isoformat()}, HOUR),
    ],
)
def test_see_dead_letters__hour_of_the_publisher(store: Directory, stamp: dict[str, str], hour: datetime) -> None:
    """Dead letters are counted for the hour in which their publisher counts them."""
    dead_letter_scan = see_dead_letters(
        store, deliver(store, thing("x", b"{", **stamp), thing("x", b"[", **stamp))[DEAD_LETTERS]
    )
    assert dead_letter_scan.seen.row_counts == RowCounts(2, Tally.of_ids(["m0", "m1"]))
    assert dead_letter_scan.events == {"thing": Tally.of_ids(["x", "x"])}
    assert dead_letter_scan.ids == {"thing": {hour: {id_hash("x")}}}


@pytest.mark.parametrize("suffix", ["avro", "ids"])
def test_see_events__any_damage_is_found(store: Directory, tmp_path: Path, suffix: str) -> None:
    """Any truncation, and any flipped bit, of a file or its index is found and does not end the audit."""
    rng = Random(1)
    manifest = deliver(store, thing("a"), thing("b"), thing("x", b"{"))["thing"]
    file = min((tmp_path / manifest.bucket.folder).glob(f"part-*.{suffix}"))
    whole = file.read_bytes()
    damaged = [whole[:-1], whole + b"\0", b"", *(whole[:length] for length in range(1, len(whole), 50))]
    flipped = [whole[:i] + bytes([whole[i] ^ 1 << rng.randrange(8)]) + whole[i + 1 :] for i in range(len(whole))]
    for data in damaged + flipped:
        file.write_bytes(data)
        assert see_events(store, manifest, DuplicateVerifier(store)).unreadable
    file.write_bytes(whole)
    assert see_events(store, manifest, DuplicateVerifier(store)).unreadable == ()


def test_see_events__damaged_file_is_not_quoted(store: Directory, tmp_path: Path) -> None:
    """The content of a damaged file is not quoted."""
    manifest = deliver(store, thing("a"))["thing"]
    [file] = (tmp_path / manifest.bucket.folder).glob("part-*.avro")
    file.write_bytes(b"secret" * 99)
    [problem] = see_events(store, manifest, DuplicateVerifier(store)).unreadable
    assert "secret" not in problem


def test_event_types_of__finds_buckets_by_name(store: Directory) -> None:
    """Event types and their buckets are found by the names of folders; other folders are ignored."""
    folders = [Bucket(stream, HOUR + timedelta(hours=step)).folder for stream in ("tap", "tap_two", "a") for step in (0, 1, 20)]
    for name in [*folders, Bucket(DEAD_LETTERS, HOUR).folder]:
        store.create(f"{name}/_RECEIPT.json", b"")
        store.create(f"{name}/_SUCCESS", b"")
    store.create("events/Not A Type/dt=2026-01-31/hour=09/x", b"")
    store.create("events/tap/notes", b"")
    assert event_types_of(store) == {"tap", "tap_two", "a"}
    first, last = HOUR + timedelta(hours=1), HOUR + timedelta(hours=20)
    assert [bucket.hour for bucket in buckets_of(store, "tap", first, last)] == [first, last]
    assert [bucket.hour for bucket in buckets_of(store, DEAD_LETTERS, HOUR, HOUR)] == [HOUR]
    assert not list(buckets_of(store, DEAD_LETTERS, first, last))
