"""Convert Avro files to Arrow batches with the columns of a table."""

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
"""Rows per batch. A load holds one batch in memory."""


class Unloadable(Exception):
    """A file is no complete Avro file, or does not fit the table. The message names the file and the field, never a value."""


def read_batches(source: BinaryIO, file: str, columns: pa.Schema) -> Iterator[pa.Table]:
    """Yield the rows of an Avro file in batches with exactly `columns`, which are matched by name.

    A column that the file lacks is null, or an empty list if it is a list. A map becomes a list of key and value, an enum or
    a uuid becomes text, and so does a decimal whose column is text.

    Args:
        source: Content of the file.
        file: Name of the file, for errors.
        columns: Schema of the batches.

    Raises:
        Unloadable: The file is not complete, or does not fit `columns`.
        StoreError, OSError: Reading `source` failed.
    """
    convert = _struct([(field.name, field.type) for field in columns], "")
    records = _records(source, file)
    while chunk := list(islice(records, ROWS)):
        try:
            yield pa.Table.from_pylist([convert(record) for record in chunk], schema=columns)
        except Unloadable as error:
            raise Unloadable(f"{file}: {error}") from None
        except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError, OverflowError) as error:
            raise Unloadable(f"{file}: a value does not fit its column's type ({type(error).__name__})") from error


def _records(source: BinaryIO, file: str) -> Iterator[Any]:
    try:
        yield from fastavro.reader(source)
    except (StoreError, OSError):
        raise
    except Exception as error:  # fastavro has no error class of its own: a broken file causes any of a dozen errors.
        raise Unloadable(f"{file}: not a complete Avro file ({type(error).__name__})") from error


def _converter(arrow_type: pa.DataType, place: str) -> Callable[[Any], Any]:
    """Return a function that converts a value of fastavro to one that Arrow accepts for `arrow_type`.

    Args:
        arrow_type: Type of the column or nested field.
        place: Dotted path of the column or nested field, for errors.
    """
    if pa.types.is_struct(arrow_type):
        return _struct([(field.name, field.type) for field in arrow_type], f"{place}.")
    if pa.types.is_list(arrow_type):
        return _list(arrow_type.value_type, place)
    return _text if pa.types.is_string(arrow_type) else _scalar


def _scalar(value: Any) -> Any:
    return str(value) if isinstance(value, UUID) else value


def _text(value: Any) -> Any:
    return f"{value:f}" if isinstance(value, Decimal) else _scalar(value)


def _list(item_type: pa.DataType, place: str) -> Callable[[Any], Any]:
    convert_item = _converter(item_type, place)

    def convert(value: Any) -> Any:
        if value is None:
            return []
        if isinstance(value, dict):
            return [convert_item({"key": key, "value": item}) for key, item in value.items()]
        return [convert_item(item) for item in value]

    return convert


def _struct(fields: list[tuple[str, pa.DataType]], prefix: str) -> Callable[[Any], Any]:
    converters = {name: _converter(arrow_type, prefix + name) for name, arrow_type in fields}

    def convert(value: Any) -> Any:
        if value is None:
            return None
        if not isinstance(value, dict):
            raise Unloadable(f"{prefix[:-1]} is a record in the table, but not in the file")
        if unknown := value.keys() - converters.keys():
            raise Unloadable(f"the table has no column {prefix}{min(unknown)}")
        return {name: convert_field(value.get(name)) for name, convert_field in converters.items()}

    return convert
