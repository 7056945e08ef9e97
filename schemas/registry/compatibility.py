"""Compatibility of a contract's versions: each must read the events of all earlier ones, and no column may change its type."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import avro.compatibility

from schemas.avro_schemas import avro_type_of, expand, node, split_union
from schemas.columns import column_type
from schemas.registry.rules import parse_strictly


def incompatibilities(text: str, earlier: Sequence[tuple[int, str]]) -> list[str]:
    """Return the conflicts of a version with the highest earlier version that it conflicts with; empty if there are none.

    All earlier versions are checked, not only the previous one. An event of any version is converted to the newest, and a
    table keeps the columns of all versions.

    Args:
        text: The schema of the new version, in JSON.
        earlier: Number and schema of each earlier version, the lowest first.
    """
    for version, older in reversed(earlier):
        checker = avro.compatibility.ReaderWriterCompatibilityChecker()  # type: ignore[no-untyped-call]
        result = checker.get_compatibility(parse_strictly(text), parse_strictly(older))
        if result.compatibility is not avro.compatibility.SchemaCompatibilityType.compatible:
            paths, messages = ", ".join(sorted(result.locations)), "; ".join(sorted(result.messages))
            conflicts = ", ".join(sorted({conflict.value for conflict in result.incompatibilities}))
            advice = "give new fields a default, only widen types, and keep names and symbols"
            return [f"can't read events of v{version}: {conflicts} at {paths}: {messages}. What to do: {advice}"]
        changes = _changed_columns(text, older)
        if changes:
            return [f"{change} of v{version}. What to do: choose another name for the field" for change in changes]
    return []


def _changed_columns(text: str, older: str) -> list[str]:
    before = dict(_columns(expand(json.loads(older)), ""))
    now = dict(_columns(expand(json.loads(text)), ""))
    return [
        f"field {name}: column {name} ({value_type}) conflicts with column {before[path][0]} ({before[path][1]})"
        for path, (name, value_type) in now.items()
        if path in before and before[path] != (name, value_type)
    ]


def _columns(schema: Mapping[str, Any], path: str) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield (path in lower case, (path, type)) for each column below a record."""
    for field in schema["fields"]:
        name = f"{path}{field['name']}"
        inner = node(split_union(field["type"])[0])
        repeated = ""
        while inner["type"] in ("array", "map"):
            repeated = f"{inner['type']} of "
            inner = node(split_union(inner["items"] if inner["type"] == "array" else inner["values"])[0])
        if inner["type"] == "record":
            yield name.lower(), (name, f"{repeated}record")
            yield from _columns(inner, f"{name}.")
        else:
            yield name.lower(), (name, f"{repeated}{_type_and_unit(inner)}")


def _type_and_unit(schema: Mapping[str, Any]) -> str:
    """Return everything that decides how a column's values are read: its type, and their unit or precision and scale."""
    if "logicalType" not in schema:
        return column_type(schema)
    digits = f"({schema['precision']}, {schema.get('scale', 0)})" if avro_type_of(schema) == "decimal" else ""
    return f"{avro_type_of(schema)}{digits}"
