"""Unknown fields: functions that collect those fields of a value that are not in its schema. Each schema is compiled once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from schemas.avro_schemas import expand, node, split_union

Collector = Callable[[Any], dict[str, Any]]
"""A function from a valid value to its unknown fields, nested as in the value. The result is empty if there are none."""


def collector_of(schema: Any, *, aliases: bool) -> Collector:
    """Compile a collector for a record's schema.

    Args:
        aliases: Whether the aliases of a field count as known names.
    """
    return _collector(expand(schema), aliases) or _nothing


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
            _collector(inner["items"], aliases), lambda items: ((str(index), item) for index, item in enumerate(items))
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

    def collect_flat(value: Any) -> dict[str, Any]:
        return {} if value.keys() <= known else {name: item for name, item in value.items() if name not in known}

    def collect(value: Any) -> dict[str, Any]:
        unknown = collect_flat(value)
        for name, collect_field in nested:
            item = value.get(name)
            if item is not None and (unknown_below := collect_field(item)):
                unknown[name] = unknown_below
        return unknown

    return collect if nested else collect_flat
