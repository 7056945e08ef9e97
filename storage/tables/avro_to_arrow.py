"""Avro files as Arrow batches in the shape of a table's columns, matched by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal
from itertools import islice
from typing import Any, BinaryIO
from uuid import UUID

import fastavro
import pyarrow as pa

from storage.objects.base import StoreError

ROWS = 10_000
"""Rows of a batch: what a load holds in memory at a time."""


class Unloadable(Exception):
    """The file is no whole Avro file, or does not fit the table. The message names the file and the place, never a value."""


def read_batches(source: BinaryIO, file: str, columns: pa.Schema) -> Iterator[pa.Table]:
    """The rows of an Avro container as batches with exactly `columns`.

    A column that the file lacks is null, or an empty list. A map becomes a list of key and value, an enum or a uuid text,
    and so does a decimal where the column is text.
    file: its name, for errors. Raises Unloadable; what `source` raises passes through.
    """
    shape = _struct([(field.name, field.type) for field in columns], "")
    records = _records(source, file)
    while chunk := list(islice(records, ROWS)):
        try:
            yield pa.Table.from_pylist([shape(record) for record in chunk], schema=columns)
        except Unloadable as error:
            raise Unloadable(f"{file}: {error}") from None
        except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError, OverflowError) as error:
            raise Unloadable(f"{file}: a value does not fit its column's type ({type(error).__name__})") from error


def _records(source: BinaryIO, file: str) -> Iterator[Any]:
    try:
        yield from fastavro.reader(source)
    except (StoreError, OSError):
        raise
    except Exception as error:  # fastavro has no error of its own: a broken file shows as any of a dozen
        raise Unloadable(f"{file}: not a whole Avro file ({type(error).__name__})") from error


def _shape(kind: pa.DataType, place: str) -> Callable[[Any], Any]:
    """What turns fastavro's value into one that Arrow takes for `kind`."""
    if pa.types.is_struct(kind):
        return _struct([(field.name, field.type) for field in kind], f"{place}.")
    if pa.types.is_list(kind):
        return _list(kind.value_type, place)
    return _text if pa.types.is_string(kind) else _scalar


def _scalar(value: Any) -> Any:
    return str(value) if isinstance(value, UUID) else value


def _text(value: Any) -> Any:
    return f"{value:f}" if isinstance(value, Decimal) else _scalar(value)


def _list(item_type: pa.DataType, place: str) -> Callable[[Any], Any]:
    item = _shape(item_type, place)

    def convert(value: Any) -> Any:
        if value is None:
            return []
        if isinstance(value, dict):
            return [item({"key": key, "value": entry}) for key, entry in value.items()]
        return [item(entry) for entry in value]

    return convert


def _struct(fields: list[tuple[str, pa.DataType]], prefix: str) -> Callable[[Any], Any]:
    shapes = {name: _shape(kind, prefix + name) for name, kind in fields}

    def convert(value: Any) -> Any:
        if value is None:
            return None
        if not isinstance(value, dict):
            raise Unloadable(f"{prefix[:-1]} is a record in the table, but not in the file")
        if unknown := value.keys() - shapes.keys():
            raise Unloadable(f"the table has no column {prefix}{min(unknown)}")
        return {name: shape(value.get(name)) for name, shape in shapes.items()}

    return convert
