"""Whole values: a schema is compiled once into readers, and into collectors of what the schema does not know."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from fastavro.schema import expand_schema

from schemas.avro_values import FROM_DEFAULT
from schemas.outcomes import Reason
from schemas.values import Makers, Reader, Unfit, kind_of

Collector = Callable[[Any], dict[str, Any]]
"""Takes a value that fits its schema, gives what the schema does not know in it, nested as in the value; empty if nothing."""

_ABSENT = object()


def reader_of(schema: Any, makers: Makers) -> Reader:
    """Compiles a record's schema. The reader takes an object, gives a datum to be written, and raises Unfit.

    A field that is absent takes its default; without one, null if it may be null. Fields that the schema
    does not know are passed over.
    """
    return _reader(expand(schema), makers)


def default_of(field: Mapping[str, Any]) -> Any:
    """The datum of a field's default, whose type must be expanded. Raises Unfit when it does not fit the type."""
    return _reader(field["type"], FROM_DEFAULT)(field["default"])


def collector_of(schema: Any, *, aliases: bool) -> Collector:
    """Compiles a record's schema. aliases: whether a field's aliases are known names as well."""
    return _collector(expand(schema), aliases) or _nothing


def expand(schema: Any) -> dict[str, Any]:
    """A record's schema with each name replaced by the type that it stands for, but for names within their own type."""
    return cast(dict[str, Any], expand_schema(schema))


def split_union(schema: Any) -> tuple[Any, bool]:
    """The type that is not null, and whether null is allowed beside it."""
    if not isinstance(schema, list):
        return schema, False
    (inner,) = (branch for branch in schema if node(branch)["type"] != "null")
    return inner, True


def node(schema: Any) -> Mapping[str, Any]:
    """The schema as an object: the short form "int" means {"type": "int"}."""
    return schema if isinstance(schema, Mapping) else {"type": schema}


def _reader(schema: Any, makers: Makers) -> Reader:
    inner, nullable = split_union(schema)
    if nullable:
        read = _reader(inner, makers)
        return lambda value: None if value is None else read(value)
    inner = node(inner)
    if inner["type"] == "record":
        return _record_reader(inner, makers)
    if inner["type"] == "array":
        return _array_reader(_reader(inner["items"], makers))
    if inner["type"] == "map":
        return _map_reader(_reader(inner["values"], makers))
    return makers[kind_of(inner)](inner)


def _record_reader(schema: Mapping[str, Any], makers: Makers) -> Reader:
    fields = tuple((field["name"], _reader(field["type"], makers), _when_absent(field)) for field in schema["fields"])

    def read(value: Any) -> dict[str, Any]:
        if type(value) is not dict:
            raise Unfit(Reason.WRONG_TYPE, "must be an object")
        get = value.get
        datum = {}
        try:
            for name, read_field, when_absent in fields:
                item = get(name, _ABSENT)
                datum[name] = read_field(item) if item is not _ABSENT else when_absent()
        except Unfit as unfit:
            unfit.steps.append(f".{name}")
            raise
        return datum

    return read


def _when_absent(field: Mapping[str, Any]) -> Callable[[], Any]:
    if "default" in field:
        datum = default_of(field)
        return lambda: datum
    if split_union(field["type"])[1]:
        return lambda: None
    return _missing


def _missing() -> Any:
    raise Unfit(Reason.MISSING_FIELD, "must be there")


def _array_reader(read_item: Reader) -> Reader:
    def read(value: Any) -> list[Any]:
        if type(value) is not list:
            raise Unfit(Reason.WRONG_TYPE, "must be an array")
        items: list[Any] = []
        append = items.append
        try:
            for item in value:
                append(read_item(item))
        except Unfit as unfit:
            unfit.steps.append(f"[{len(items)}]")
            raise
        return items

    return read


def _map_reader(read_item: Reader) -> Reader:
    def read(value: Any) -> dict[str, Any]:
        if type(value) is not dict:
            raise Unfit(Reason.WRONG_TYPE, "must be an object")
        try:
            return {key: read_item(item) for key, item in value.items()}
        except Unfit as unfit:
            unfit.steps.append("[*]")  # not the key: it belongs to the payload
            raise

    return read


def _nothing(_: Any) -> dict[str, Any]:
    return {}


def _collector(schema: Any, aliases: bool) -> Collector | None:
    inner, nullable = split_union(schema)
    if nullable:
        return _nullable_collector(_collector(inner, aliases))
    inner = node(inner)
    if inner["type"] == "record":
        return _record_collector(inner, aliases)
    if inner["type"] == "array":
        return _items_collector(
            _collector(inner["items"], aliases), lambda items: ((str(at), item) for at, item in enumerate(items))
        )
    if inner["type"] == "map":
        return _items_collector(_collector(inner["values"], aliases), lambda value: value.items())
    return None


def _nullable_collector(collect: Collector | None) -> Collector | None:
    return None if collect is None else lambda value: {} if value is None else collect(value)


def _items_collector(collect: Collector | None, items: Callable[[Any], Iterable[tuple[str, Any]]]) -> Collector | None:
    if collect is None:
        return None
    return lambda value: {key: unknown for key, item in items(value) if (unknown := collect(item))}


def _record_collector(schema: Mapping[str, Any], aliases: bool) -> Collector:
    names = {field["name"]: [field["name"], *(field.get("aliases", ()) if aliases else ())] for field in schema["fields"]}
    known = frozenset(name for all_names in names.values() for name in all_names)
    compiled = ((field, _collector(field["type"], aliases)) for field in schema["fields"])
    nested = tuple((name, collect) for field, collect in compiled if collect for name in names[field["name"]])

    def collect(value: Any) -> dict[str, Any]:
        found = {} if value.keys() <= known else {name: item for name, item in value.items() if name not in known}
        for name, collect_field in nested:
            item = value.get(name)
            if item is not None and (below := collect_field(item)):
                found[name] = below
        return found

    return collect
