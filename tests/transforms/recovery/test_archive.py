"""What is taken from archive files: which files are read, and what of a damaged one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import fastavro
import pytest

from storage.objects.local import Directory
from tests.support.archive import SCHEMA, Archived, archive_bytes, write_archive
from transforms.recovery import archive, archive_source
from transforms.recovery.archive import Wanted, archive_files, read_messages

HOUR = datetime(2026, 1, 31, 9, tzinfo=UTC)
NOW = HOUR + timedelta(minutes=30)
WANTED = Wanted(HOUR, HOUR, timedelta(days=7))


def message(number: int, **attributes: str) -> Archived:
    return Archived(b"%04d" % number * 25, {"event_type": "tap", **attributes}, f"m{number}", NOW)


def read(file: Path, wanted: Wanted = WANTED) -> tuple[list[str], list[str]]:
    """The message ids, and the problems."""
    problems: list[str] = []
    store = Directory(file.parent)
    return [one.message_id for _, one in read_messages(store, file.name, wanted, problems)], problems


def test_a_message_is_given_as_pubsub_gave_it(tmp_path: Path) -> None:
    file = write_archive(tmp_path, [message(1, colour="red")])
    [(_, one)] = read_messages(Directory(tmp_path), file.name, WANTED, [])
    assert (one.data, one.attributes, one.message_id, one.publish_time) == (
        b"0001" * 25,
        {"event_type": "tap", "colour": "red"},
        "m1",
        NOW,
    )


@pytest.mark.parametrize(
    ("name", "is_read"),
    [
        ("events-2026-01-31T07:30:00+00:00_0d9f.avro", False),
        # Begun before the hour, and it goes on for a while; in another zone; published a week after, and written a month later.
        ("events-2026-01-31T08:30:00+00:00_0d9f.avro", True),
        ("events-2026-01-31T11:45:00+02:00_0d9f.avro", True),
        ("events-2026-03-11T09:00:00Z_0d9f.avro", True),
        ("events-2026-03-12T09:00:00Z_0d9f.avro", False),
        ("2025/01/31/events_0d9f.avro", True),
        # Other forms that a subscription can be set to; what can't be told for sure is read.
        ("prod_2026-01-31/07_30_00Z_0d9f.avro", False),
        ("prod_2026-01-31/09_30_00Z_0d9f.avro", True),
        ("prod_2026-01-31T07_30_00-0d9f.avro", False),
        ("prod_2026/01/31/07/30/00+00:00_0d9f.avro", False),
        ("prod_26-01-31T07:30:00Z_0d9f.avro", True),
        ("prod_20260131073000_0d9f.avro", True),
        ("2025-99-99T99:00:00Z_0d9f.avro", True),
    ],
)
def test_only_a_file_whose_name_says_that_it_holds_nothing_wanted_is_left_out(tmp_path: Path, name: str, is_read: bool) -> None:
    file = tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    assert archive_files(Directory(tmp_path), WANTED) == ([name] if is_read else [])


def test_only_the_wanted_ids_are_given_and_the_message_id_counts_where_there_is_none(tmp_path: Path) -> None:
    file = write_archive(tmp_path, [message(1, event_id="a"), message(2, event_id="b"), message(3), message(4, event_type="x")])
    wanted = Wanted(HOUR, HOUR, timedelta(days=7), frozenset({("tap", "a"), ("tap", "m3"), ("tap", "m4"), ("x", "a")}))
    assert read(file, wanted) == (["m1", "m3"], [])


def blocks_of(file: Path) -> list[tuple[int, int, list[str]]]:
    """Each block's place and size, and the message ids in it."""
    with file.open("rb") as source:
        blocks: Any = fastavro.block_reader(source)
        return [(block.offset, block.size, [record["message_id"] for record in block]) for block in blocks]


@pytest.mark.parametrize("where", ["in the count", "in the data", "in the marker", "at the end"])
def test_a_broken_block_is_named_by_its_place_and_hides_no_other(tmp_path: Path, where: str) -> None:
    file = write_archive(tmp_path, map(message, range(100)), block_bytes=1_000)
    blocks = blocks_of(file)
    assert len(blocks) > 5
    offset, size, _ = blocks[3]
    data = bytearray(file.read_bytes())
    lost = blocks[3][2]
    if where == "in the count":
        data[offset] -= 2  # one record fewer, in Avro's zigzag
    elif where == "in the data":
        data[offset + size // 2 : offset + size // 2 + 4] = b"\xff" * 4
    elif where == "in the marker":
        # It parts two blocks: where it is gone, neither is known to be whole.
        data[offset + size - 1] ^= 1
        lost = lost + blocks[4][2]
    else:
        data, (offset, _, lost) = data[:-3], blocks[-1]
    file.write_bytes(data)
    found, problems = read(file)
    assert [id_ for id_ in (f"m{number}" for number in range(100)) if id_ not in found] == lost
    assert [problem.partition(" is broken")[0] for problem in problems] == [f"{file}: the block at byte {offset}"]


def test_what_never_ends_is_not_held_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "LARGEST_BLOCK", 3_000)
    monkeypatch.setattr(archive, "CHUNK", 1_000)
    file = write_archive(tmp_path, map(message, range(100)), block_bytes=1_000)
    blocks, data = blocks_of(file), file.read_bytes()
    at = blocks[2][0]
    file.write_bytes(data[:at] + bytes(50_000) + data[at:])
    found, problems = read(file)
    assert found == [one for index, (_, _, ids) in enumerate(blocks) if index != 2 for one in ids]
    assert len(problems) > 10


@pytest.mark.parametrize("content", [b"", b"Obj\x01", b"text"])
def test_what_is_no_avro_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.avro").write_bytes(content)
    assert read(tmp_path / "x.avro")[0] == []
    assert "x.avro is no Avro file that can be read" in read(tmp_path / "x.avro")[1][0]


@pytest.mark.parametrize("codec", ["null", "deflate", "bzip2"])
def test_any_codec_is_read_and_an_empty_file_is_one_without_messages(tmp_path: Path, codec: str) -> None:
    (tmp_path / "x.avro").write_bytes(archive_bytes(map(message, range(50)), 1_000, codec))
    (tmp_path / "empty.avro").write_bytes(archive_bytes([], codec=codec))
    assert read(tmp_path / "x.avro") == ([f"m{number}" for number in range(50)], [])
    assert read(tmp_path / "empty.avro") == ([], [])


def test_a_codec_that_cannot_be_read_is_named_once(tmp_path: Path) -> None:
    data = archive_bytes(map(message, range(50)), 1_000).replace(b"\x0edeflate", b"\x0csnappy")
    (tmp_path / "x.avro").write_bytes(data)
    assert read(tmp_path / "x.avro") == ([], [f"{tmp_path}/x.avro is compressed with snappy, which can't be read"])


def test_payloads_in_the_topics_own_schema_are_named(tmp_path: Path) -> None:
    """Its fields then stand where the data would, and one of them may be called so."""
    fields = [field for field in SCHEMA["fields"] if field["name"] != "data"] + [{"name": "data", "type": "string"}]
    record = {"subscription_name": "s", "message_id": "m", "publish_time": NOW, "attributes": {}, "data": "text"}
    with (tmp_path / "x.avro").open("wb") as file:
        fastavro.writer(file, {**SCHEMA, "fields": fields}, [record])
    assert read(tmp_path / "x.avro") == (
        [],
        [f"{tmp_path}/x.avro: data is no bytes: the subscription must not use the topic's schema"],
    )


@pytest.mark.parametrize("schema", [{"type": "record", "name": "r", "fields": [{"name": "data", "type": "bytes"}]}, "bytes"])
def test_an_archive_without_metadata_is_named(tmp_path: Path, schema: Any) -> None:
    with (tmp_path / "x.avro").open("wb") as file:
        fastavro.writer(file, schema, [{"data": b"x"} if isinstance(schema, dict) else b"x"])
    [problem] = read(tmp_path / "x.avro")[1]
    assert "x.avro" in problem


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    assert read(tmp_path / "gone.avro") == ([], [f"{tmp_path}/gone.avro can't be read: no object gone.avro below {tmp_path}"])


@pytest.mark.parametrize(("limits", "sizes"), [((7, 10**9), [7, 7, 6]), ((10**9, 1_000), [10, 10]), ((20, 10**9), [20])])
def test_messages_come_in_batches_of_a_bounded_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int], sizes: list[int]
) -> None:
    monkeypatch.setattr(archive_source, "BATCH_MESSAGES", limits[0])
    monkeypatch.setattr(archive_source, "BATCH_BYTES", limits[1])
    files = [write_archive(tmp_path, map(message, range(start, start + 10))).name for start in (0, 10)]
    reading = archive_source.Reading(Directory(tmp_path), files, WANTED)
    batches = list(reading.batches())
    assert [len(batch) for batch, _ in batches] == sizes
    assert [is_last for _, is_last in batches] == [False] * (len(sizes) - 1) + [True]
    assert [one.message_id for batch, _ in batches for one in batch] == [f"m{number}" for number in range(20)]
    assert (reading.messages, reading.hours) == (20, {HOUR})
