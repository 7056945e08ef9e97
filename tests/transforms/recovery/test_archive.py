"""Reading archive files: which files are read, which messages of them, and which of a damaged file."""

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
    """Return the message ids and the problems."""
    problems: list[str] = []
    store = Directory(file.parent)
    return [message.message_id for _, message in read_messages(store, file.name, wanted, problems)], problems


def test_read_messages__unchanged(tmp_path: Path) -> None:
    """A message is read as Pub/Sub delivered it."""
    file = write_archive(tmp_path, [message(1, colour="red")])
    [(_, read)] = read_messages(Directory(tmp_path), file.name, WANTED, [])
    assert (read.data, read.attributes, read.message_id, read.publish_time) == (
        b"0001" * 25,
        {"event_type": "tap", "colour": "red"},
        "m1",
        NOW,
    )


@pytest.mark.parametrize(
    ("name", "is_read"),
    [
        ("events-2026-01-31T07:30:00+00:00_0d9f.avro", False),
        # Started before the hour and written for a while; in another zone; published a week later, written a month later.
        ("events-2026-01-31T08:30:00+00:00_0d9f.avro", True),
        ("events-2026-01-31T11:45:00+02:00_0d9f.avro", True),
        ("events-2026-03-11T09:00:00Z_0d9f.avro", True),
        ("events-2026-03-12T09:00:00Z_0d9f.avro", False),
        ("2025/01/31/events_0d9f.avro", True),
        # Other formats that a subscription can be configured with; ambiguous names are read.
        ("prod_2026-01-31/07_30_00Z_0d9f.avro", False),
        ("prod_2026-01-31/09_30_00Z_0d9f.avro", True),
        ("prod_2026-01-31T07_30_00-0d9f.avro", False),
        ("prod_2026/01/31/07/30/00+00:00_0d9f.avro", False),
        ("prod_26-01-31T07:30:00Z_0d9f.avro", True),
        ("prod_20260131073000_0d9f.avro", True),
        ("2025-99-99T99:00:00Z_0d9f.avro", True),
    ],
)
def test_archive_files__by_name(tmp_path: Path, name: str, is_read: bool) -> None:
    """A file is left out only if its name proves that it holds no wanted message."""
    file = tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    assert archive_files(Directory(tmp_path), WANTED) == ([name] if is_read else [])


def test_read_messages__wanted_ids(tmp_path: Path) -> None:
    """Only wanted event ids are returned; the message id counts if there is no event id."""
    file = write_archive(tmp_path, [message(1, event_id="a"), message(2, event_id="b"), message(3), message(4, event_type="x")])
    wanted = Wanted(HOUR, HOUR, timedelta(days=7), frozenset({("tap", "a"), ("tap", "m3"), ("tap", "m4"), ("x", "a")}))
    assert read(file, wanted) == (["m1", "m3"], [])


def blocks_of(file: Path) -> list[tuple[int, int, list[str]]]:
    """Return each block's offset, size and message ids."""
    with file.open("rb") as source:
        blocks: Any = fastavro.block_reader(source)
        return [(block.offset, block.size, [record["message_id"] for record in block]) for block in blocks]


@pytest.mark.parametrize("where", ["in the count", "in the data", "in the marker", "at the end"])
def test_read_messages__broken_block(tmp_path: Path, where: str) -> None:
    """A broken block is named by its offset, and all other blocks are read."""
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
        # The marker separates two blocks: if it is damaged, both count as broken.
        data[offset + size - 1] ^= 1
        lost = lost + blocks[4][2]
    else:
        data, (offset, _, lost) = data[:-3], blocks[-1]
    file.write_bytes(data)
    found, problems = read(file)
    assert [message_id for message_id in (f"m{number}" for number in range(100)) if message_id not in found] == lost
    assert [problem.partition(" is broken")[0] for problem in problems] == [f"{file}: the block at byte {offset}"]


def test_read_messages__memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block without an end is skipped without holding it in memory."""
    monkeypatch.setattr(archive, "LARGEST_BLOCK", 3_000)
    monkeypatch.setattr(archive, "CHUNK", 1_000)
    file = write_archive(tmp_path, map(message, range(100)), block_bytes=1_000)
    blocks, data = blocks_of(file), file.read_bytes()
    offset = blocks[2][0]
    file.write_bytes(data[:offset] + bytes(50_000) + data[offset:])
    found, problems = read(file)
    assert found == [message_id for index, (_, _, ids) in enumerate(blocks) if index != 2 for message_id in ids]
    assert len(problems) > 10


@pytest.mark.parametrize("content", [b"", b"Obj\x01", b"text"])
def test_read_messages__not_an_avro_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.avro").write_bytes(content)
    assert read(tmp_path / "x.avro")[0] == []
    assert "x.avro is not a readable Avro file" in read(tmp_path / "x.avro")[1][0]


@pytest.mark.parametrize("codec", ["null", "deflate", "bzip2"])
def test_read_messages__codecs_and_empty_files(tmp_path: Path, codec: str) -> None:
    """Files of every supported codec are read, and an empty file yields no message."""
    (tmp_path / "x.avro").write_bytes(archive_bytes(map(message, range(50)), 1_000, codec))
    (tmp_path / "empty.avro").write_bytes(archive_bytes([], codec=codec))
    assert read(tmp_path / "x.avro") == ([f"m{number}" for number in range(50)], [])
    assert read(tmp_path / "empty.avro") == ([], [])


def test_read_messages__unsupported_codec(tmp_path: Path) -> None:
    data = archive_bytes(map(message, range(50)), 1_000).replace(b"\x0edeflate", b"\x0csnappy")
    (tmp_path / "x.avro").write_bytes(data)
    assert read(tmp_path / "x.avro") == ([], [f"{tmp_path}/x.avro is compressed with snappy, which can't be read"])


def test_read_messages__topic_schema(tmp_path: Path) -> None:
    """A subscription that uses the topic's schema is named.

    The schema's fields then replace `data`, and one of them may itself be called `data`.
    """
    fields = [field for field in SCHEMA["fields"] if field["name"] != "data"] + [{"name": "data", "type": "string"}]
    record = {"subscription_name": "s", "message_id": "m", "publish_time": NOW, "attributes": {}, "data": "text"}
    with (tmp_path / "x.avro").open("wb") as file:
        fastavro.writer(file, {**SCHEMA, "fields": fields}, [record])
    assert read(tmp_path / "x.avro") == (
        [],
        [f"{tmp_path}/x.avro: data is not bytes. What to do: have the subscription write without the topic's schema"],
    )


@pytest.mark.parametrize("schema", [{"type": "record", "name": "r", "fields": [{"name": "data", "type": "bytes"}]}, "bytes"])
def test_read_messages__without_metadata(tmp_path: Path, schema: Any) -> None:
    with (tmp_path / "x.avro").open("wb") as file:
        fastavro.writer(file, schema, [{"data": b"x"} if isinstance(schema, dict) else b"x"])
    [problem] = read(tmp_path / "x.avro")[1]
    assert "x.avro" in problem


def test_read_messages__deleted_file(tmp_path: Path) -> None:
    assert read(tmp_path / "gone.avro") == ([], [f"{tmp_path}/gone.avro can't be read: no object gone.avro below {tmp_path}"])


@pytest.mark.parametrize(("limits", "sizes"), [((7, 10**9), [7, 7, 6]), ((10**9, 1_000), [10, 10]), ((20, 10**9), [20])])
def test_batches__bounded_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int], sizes: list[int]
) -> None:
    monkeypatch.setattr(archive_source, "BATCH_MESSAGES", limits[0])
    monkeypatch.setattr(archive_source, "BATCH_BYTES", limits[1])
    files = [write_archive(tmp_path, map(message, range(start, start + 10))).name for start in (0, 10)]
    reading = archive_source.Reading(Directory(tmp_path), files, WANTED)
    batches = list(reading.batches())
    assert [len(batch) for batch, _ in batches] == sizes
    assert [is_last for _, is_last in batches] == [False] * (len(sizes) - 1) + [True]
    assert [message.message_id for batch, _ in batches for message in batch] == [f"m{number}" for number in range(20)]
    assert (reading.messages, reading.hours) == (20, {HOUR})
