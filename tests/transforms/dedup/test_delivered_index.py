"""The delivered indexes of a run, shared by its steps."""

from __future__ import annotations

import pickle
from datetime import timedelta
from pathlib import Path

from storage.objects.local import Directory
from transforms.dedup.delivered_index import DeliveredIndexes

HORIZON = timedelta(hours=2)


def test_delivered_indexes__steps_of_a_process_share_one(tmp_path: Path) -> None:
    indexes = DeliveredIndexes(Directory(tmp_path), HORIZON)
    for_write, for_commit = pickle.loads(pickle.dumps(indexes)), pickle.loads(pickle.dumps(indexes))
    assert for_write is for_commit is indexes
    assert for_write.of("thing") is for_commit.of("thing")
    assert for_write.of("thing") is not for_write.of("other")


def test_delivered_indexes__each_run_has_its_own(tmp_path: Path) -> None:
    store = Directory(tmp_path)
    before = DeliveredIndexes(store, HORIZON).of("thing")
    assert DeliveredIndexes(store, HORIZON).of("thing") is not before


def test_delivered_indexes__steps_elsewhere_share_one(tmp_path: Path) -> None:
    """Steps in a worker's process share one object, though the pickled object does not exist there."""
    store = Directory(tmp_path)
    indexes = DeliveredIndexes(store, HORIZON)
    pickled, made = pickle.dumps(indexes), id(indexes.of("thing"))
    kept = indexes.of("thing")
    del indexes
    DeliveredIndexes(store, HORIZON)  # a Shared keeps the last object alive
    for_write, for_commit = pickle.loads(pickled), pickle.loads(pickled)
    assert for_write is for_commit
    assert id(for_write.of("thing")) != made == id(kept)
    assert for_write.of("thing").horizon == HORIZON
