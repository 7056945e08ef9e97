"""Duplicates of another hour are listed, and count only if that hour really contains them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import fastavro
import google_crc32c
import pytest

from audit.duplicate_verifier import DuplicateVerifier
from audit.file_scan import see_events
from schemas.buckets import DEAD_LETTERS, HOUR, Bucket
from schemas.fingerprints import id_hash
from storage.buckets.committable import CLOSE_CHECK, combine
from storage.buckets.duplicate_refs import Elsewhere, entry, hour_number, packed
from storage.buckets.manifest import Manifest
from storage.buckets.manifest_store import shown_receipt
from storage.objects.base import Stored, StoreError
from storage.objects.local import Directory
from tests.transforms.commit.test_dedup_horizon import DAY, NOON, FailsAtNthWrite, Process, balance, rows
from transforms.commit.commit import commit

LATER = NOON + HOUR


@pytest.fixture
def new_id() -> Callable[[], str]:
    numbers = count()
    return lambda: f"{next(numbers):032x}"


@pytest.fixture
def store(tmp_path: Path) -> Directory:
    return Directory(tmp_path)


def ids(*names: str) -> set[bytes]:
    return {id_hash(name) for name in names}


def files(store: Directory, hour: Any, pattern: str) -> list[Path]:
    return sorted(Path(store.uri, Bucket("thing", hour).folder).glob(pattern))


@pytest.mark.parametrize("blind", [True, False], ids=["found at the commit", "found by the writer"])
def test_see_events__duplicate_of_another_hour(store, new_id, blind: bool) -> None:
    """A duplicate of another hour counts as arrived, and its refs file is not unexpected."""
    Process(store, new_id).deliver(NOON, ("a", 1), ("b", 1))
    manifest = Process(store, new_id).deliver(LATER, ("b", 1), ("c", 1), blind=blind)
    seen = see_events(store, manifest, DuplicateVerifier(store))
    assert (seen.row_counts.rows, seen.ids, seen.unheld, seen.unreadable, seen.unexpected) == (
        1,
        {LATER: ids("b", "c")},
        0,
        (),
        (),
    )
    assert [file.count for file in manifest.elsewhere] == [1]


def test_see_events__only_duplicates(store, new_id) -> None:
    """A bucket of nothing but such duplicates has no data file and counts them."""
    Process(store, new_id).deliver(NOON, ("a", 1), ("b", 1))
    for blind in (False, True):
        manifest = Process(store, new_id).deliver(LATER, ("a", 1), ("b", 1), ("b", 1), blind=blind)
        assert (manifest.data_files, see_events(store, manifest, DuplicateVerifier(store)).ids) == ((), {LATER: ids("a", "b")})
    assert balance(manifest) == (6, 0, 6)


@pytest.mark.parametrize("blind", [True, False])
def test_duplicate_refs__no_file_without_duplicates(store, new_id, blind: bool) -> None:
    """No refs file is written if all duplicates are of the same hour, or conflict."""
    process = Process(store, new_id)
    process.deliver(NOON, ("a", 1), blind=blind)
    process.deliver(NOON, ("a", 1), ("a", 1), ("a", 2), ("b", 1), blind=blind)
    process.deliver(LATER, ("a", 2), blind=blind)  # conflicts
    assert not [name for name in store.list("") if "elsewhere" in name]
    assert len(rows(store, DEAD_LETTERS)) == 2


@pytest.mark.parametrize("blind", [True, False])
def test_see_events__skewed_duplicate(store, new_id, blind) -> None:
    """A skewed event counts for the hour that it was published for."""
    Process(store, new_id).deliver(NOON, ("a", 1))
    process, early = Process(store, new_id), NOON - 99 * HOUR
    original_row = process.row
    process.row = lambda *event: {**original_row(*event), "skewed_from": early + timedelta(minutes=5)}  # type: ignore[method-assign]
    manifest = process.deliver(LATER, ("a", 1), blind=blind)
    assert see_events(store, manifest, DuplicateVerifier(store)).ids == {early: ids("a")}


def test_see_events__late_duplicate(store, new_id) -> None:
    """A late duplicate gives a closed bucket a new version, and the refs of all versions count."""
    process = Process(store, new_id)
    process.deliver(NOON, ("a", 1), ("b", 1))
    process.deliver(LATER, ("a", 1))
    commit(store, Bucket("thing", LATER), CLOSE_CHECK, True, lambda: NOON + DAY, new_id, process.delivered)
    manifest = process.deliver(LATER, ("b", 1), blind=False)
    assert (manifest.version, manifest.closed, manifest.report().late, len(manifest.elsewhere)) == (3, True, 0, 2)
    assert see_events(store, manifest, DuplicateVerifier(store)).ids == {LATER: ids("a", "b")}


def test_see_events__conflict_is_no_duplicate(store, new_id) -> None:
    """An event that conflicts is removed from its file and counts as no duplicate.

    Of one committable, the first file conflicts; the second is the delivered event itself.
    """
    process = Process(store, new_id)
    process.deliver(NOON, ("a", 1))
    both = combine([process.write(LATER, ("a", 2)), process.write(LATER, ("a", 1))])
    for data_files in (both.data_files, both.data_files[::-1]):
        again = replace(both, id=new_id(), data_files=data_files)
        manifest = process.commit(LATER, again)
        assert len(rows(store, DEAD_LETTERS)) == 1
        assert see_events(store, manifest, DuplicateVerifier(store)).ids == {LATER: ids("a")}


def lose_a_row(file: Path) -> None:
    with file.open("rb") as source:
        reader = fastavro.reader(source)
        kept, schema = list(reader)[1:], reader.writer_schema
    with file.open("wb") as target:
        fastavro.writer(target, schema, kept)


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda store: files(store, NOON, "part-*.avro")[0].unlink(), "no object"),
        (lambda store: lose_a_row(files(store, NOON, "part-*.avro")[0]), "size or checksum"),
        (lambda store: files(store, NOON, "part-*.ids")[0].unlink(), "no object"),
        (lambda store: files(store, NOON, "part-*.ids")[0].write_bytes(b""), "is not the index"),
        (lambda store: files(store, NOON, "_RECEIPT.json")[0].write_text("{"), "can't be read"),
        (lambda store: files(store, LATER, "elsewhere-*")[0].unlink(), "no object"),
        (lambda store: files(store, LATER, "elsewhere-*")[0].write_bytes(bytes(24)), "is not the file that was committed"),
        (lambda store: files(store, LATER, "elsewhere-*")[0].write_bytes(b"secret"), "is not the file that was committed"),
    ],
)
def test_verify__damaged_evidence(store, new_id, damage, problem: str) -> None:
    """A file of either hour that can't be read or trusted proves nothing, and is named without its content."""
    Process(store, new_id).deliver(NOON, ("a", 1), ("b", 1))
    manifest = Process(store, new_id).deliver(LATER, ("a", 1))
    assert DuplicateVerifier(store).verify(manifest).ids == {LATER: ids("a")}
    damage(store)
    verification = DuplicateVerifier(store).verify(manifest)
    assert (verification.ids, verification.unheld, len(verification.unreadable)) == ({}, 0, 1)
    assert problem in verification.unreadable[0]
    assert "secret" not in verification.unreadable[0]


def with_entries(store: Directory, manifest: Manifest, data: bytes) -> Manifest:
    """Return the manifest as if its only refs file had this content and had always been listed with it."""
    name = manifest.elsewhere[0].name
    stored = store.write(f"{manifest.bucket.folder}/{name}", data)
    assert stored.crc32c == google_crc32c.value(data)
    value = json.loads(manifest.to_json())
    value["commits"][-1]["elsewhere"] = [Elsewhere(name, len(data) // 24, stored.crc32c).to_json()]
    return Manifest.from_json(json.dumps(value).encode(), "r")


def test_verify__id_is_not_in_its_hour(store, new_id) -> None:
    """A ref whose hour does not contain the id does not count, and is reported."""
    Process(store, new_id).deliver(NOON, ("a", 1), ("b", 1))
    manifest = Process(store, new_id).deliver(LATER, ("a", 1))
    noon, empty = hour_number(NOON), hour_number(NOON - HOUR)
    forged = [("a", noon), ("lost", noon), ("b", empty), ("lost too", empty)]
    data, _ = packed(entry(id_hash(name), LATER, hour) for name, hour in forged)
    verification = DuplicateVerifier(store).verify(with_entries(store, manifest, data))
    assert (verification.ids, verification.unheld, verification.unreadable) == ({LATER: ids("a")}, 3, ())


@pytest.mark.parametrize("data", [b"secret", b"\x7f" * 24])
def test_verify__file_without_entries(store, new_id, data: bytes) -> None:
    """A listed file without entries is named."""
    Process(store, new_id).deliver(NOON, ("a", 1))
    manifest = with_entries(store, Process(store, new_id).deliver(LATER, ("a", 1)), data)
    [problem] = DuplicateVerifier(store).verify(manifest).unreadable
    name = f"{manifest.bucket.folder}/{manifest.elsewhere[0].name}"
    assert problem == f"{name} can't be read: it contains no ids with their hours. What to do: restore it from a copy"


def test_verify__killed_at_any_write(tmp_path, new_id) -> None:
    """After a kill at any write, the duplicates that the process dropped are verified in the end."""
    killed = 0
    for step in range(20):
        store = Directory(tmp_path / str(step))
        Process(store, new_id).deliver(NOON, ("a", 1), ("b", 1))
        dying = FailsAtNthWrite(tmp_path / str(step))
        committable = Process(dying, new_id).write(LATER, ("a", 1), ("c", 1), blind=bool(step % 2))
        dying.writes_left = step // 2
        try:
            Process(dying, new_id).commit(LATER, committable)
        except StoreError:
            killed += 1
        # Readers see a consistent state at any moment.
        verification = DuplicateVerifier(store).verify(shown_receipt(store, Bucket("thing", LATER)))
        assert (verification.unheld, verification.unreadable) == (0, ()), step
        manifest = Process(store, new_id).commit(LATER, committable)
        seen = see_events(store, manifest, DuplicateVerifier(store))
        assert (seen.ids, seen.unheld, seen.unreadable, seen.unexpected) == ({LATER: ids("a", "c")}, 0, (), ()), step
    assert 12 <= killed < 20


@pytest.mark.parametrize(("kept_bytes", "reads"), [(10**6, 1), (0, 3)])
def test_verify__caches_indexes(store, new_id, monkeypatch, kept_bytes: int, reads: int) -> None:
    """An index is read once as long as the cache has room."""
    for hour in (NOON - 3 * HOUR, NOON):
        Process(store, new_id).deliver(hour, (f"a{hour}", 1), (f"b{hour}", 1))
    again = [(f"a{hour}", 1) for hour in (NOON - 3 * HOUR, NOON)]
    manifests = [Process(store, new_id).deliver(NOON + step * HOUR, *again) for step in (1, 2, 3)]
    monkeypatch.setattr("audit.duplicate_verifier.KEPT_BYTES", kept_bytes)
    names: list[str] = []
    read = Directory.read

    def record_name(self: Directory, name: str) -> tuple[bytes, Stored]:
        names.append(name)
        return read(self, name)

    monkeypatch.setattr(Directory, "read", record_name)
    verifier = DuplicateVerifier(store)
    for manifest in manifests:
        assert len(verifier.verify(manifest).ids[manifest.bucket.hour]) == 2
    [index] = files(store, NOON, "part-*.ids")
    assert sum(name.endswith(index.name) for name in names) == reads
    assert len(verifier._kept) == (2 if kept_bytes else 1)
