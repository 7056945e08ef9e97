"""From receipts to table partitions: thin Beam shells around `load`."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from enum import Enum, auto
from typing import Any

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindows

from schemas.buckets import FIRST_HOUR, Bucket
from schemas.receipts import Receipt
from schemas.tables import Table
from transforms.beside import SideBySide
from transforms.buckets import Buckets
from transforms.load import load, not_loaded
from transforms.looks import Gather
from transforms.tables import NotLoaded, Tables
from transforms.versions import finished_receipt
from transforms.windows import Hourly, at

PAUSE_SECONDS = 300.0
"""Before a streaming engine is told of a load that has failed. It tries again at once and without end, and BigQuery counts the
jobs that fail among a table's 1,500 a day."""

_LOADED, _FAILED = "loaded", "failed"

_log = logging.getLogger(__name__)


class LoadTables(beam.PTransform):  # type: ignore[misc]
    """Takes receipts. Gives them on when the table's partition holds what they list. by_stream: tables, which must be there.
    A text in a receipt's place says why there is none that could be loaded.

    A partition that can't be loaded stops no other. A run that ends fails when it has loaded the rest, with one TablesError
    for all of them. Another engine tries each again for as long as it runs, and meanwhile goes on with the others.

    open_hourly: how often a bucket that is open is loaded, where that is less often than it gets receipts: a load takes all of
    its files again. Who gives it looks again at what is not loaded (`transforms.looks.WatchHours`): a failure is only told.
    """

    def __init__(
        self, tables: Tables, by_stream: Mapping[str, Table], buckets: Buckets, ends: bool, open_hourly: Hourly | None = None
    ) -> None:
        super().__init__()
        self._ends = ends
        self._buckets = buckets
        self._open_hourly = open_hourly
        failing = _Failing.COLLECTED if ends else _Failing.TOLD if open_hourly else _Failing.RAISED
        self._fn = _Load(tables, by_stream, buckets, failing)

    def expand(self, receipts: beam.PCollection) -> beam.PCollection:
        if self._open_hourly:
            closed, opened = receipts | "Is open" >> beam.Partition(lambda receipt, _: int(not receipt.closed), 2)
            newest = (
                opened
                | "Its bucket"
                >> beam.Map(lambda receipt: at(receipt.bucket.hour, (receipt.bucket.key, b""))).with_output_types(
                    tuple[str, bytes]
                )
                | "Open by hour" >> self._open_hourly
                | "Group open" >> beam.GroupByKey()
                | "Newest"
                >> beam.Map(lambda one: finished_receipt(self._buckets, Bucket.from_key(one[0]))).with_output_types(Receipt)
                | "Out of hours" >> beam.WindowInto(GlobalWindows())
            )
            receipts = (closed, newest) | "Open and closed" >> beam.Flatten()
        if not self._ends:
            return receipts | "Load" >> beam.ParDo(self._fn).with_output_types(Receipt)
        loaded = receipts | "Load" >> beam.ParDo(self._fn).with_outputs(_FAILED, main=_LOADED)
        loaded[_LOADED].element_type = Receipt
        loaded[_FAILED].element_type = str
        _ = loaded[_FAILED] | "At the end" >> Gather() | "Fail" >> beam.Map(_fail)
        return loaded[_LOADED]


class _Failing(Enum):
    """What becomes of a failure to load: it is collected until the run ends, raised to an engine that tries again, or told."""

    COLLECTED = auto()
    RAISED = auto()
    TOLD = auto()


class _Load(SideBySide):
    def __init__(self, tables: Tables, by_stream: Mapping[str, Table], buckets: Buckets, failing: _Failing) -> None:
        self._tables = tables
        self._by_stream = by_stream
        self._buckets = buckets
        self._failing = failing

    def bucket_of(self, element: Receipt | str) -> Bucket | None:
        return None if isinstance(element, str) else element.bucket

    def act(self, element: Receipt | str) -> list[Any]:
        if isinstance(element, str):
            return [beam.pvalue.TaggedOutput(_FAILED, at(FIRST_HOUR, element))]
        hour = element.bucket.hour
        try:
            load(self._tables, self._by_stream[element.bucket.stream], self._buckets, element)
        except NotLoaded as failure:
            if self._failing is _Failing.RAISED:
                raise
            if self._failing is _Failing.TOLD:
                _log.warning("%s. The files are safe, and it is tried again within an hour", failure)
                return []
            return [beam.pvalue.TaggedOutput(_FAILED, at(hour, str(failure)))]
        return [at(hour, element)]

    def finish_bundle(self) -> list[Any]:
        try:
            return super().finish_bundle()
        except NotLoaded:
            # Not in the threads: those that wait would keep others from being loaded meanwhile.
            time.sleep(PAUSE_SECONDS)
            raise


def _fail(failures: Iterable[str]) -> None:
    raise not_loaded(list(failures))
