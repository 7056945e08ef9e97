"""What a version of a contract may change: it reads what all before it wrote, and a column keeps what it holds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import avro.compatibility

from schemas.avro_schemas import expand, kind_of, node, split_union
from schemas.columns import column_type
from schemas.registry.rules import parse_strictly


def incompatibilities(text: str, earlier: Sequence[tuple[int, str]]) -> list[str]:
    """Why a version can't follow `earlier` ones (version and text, in order), told for the nearest that it conflicts with.

    Against all and not only the one before: an event of any version is read into the newest,
    and a table keeps the columns of all.
    """
    for version, older in reversed(earlier):
        checker = avro.compatibility.ReaderWriterCompatibilityChecker()  # type: ignore[no-untyped-call]
        result = checker.get_compatibility(parse_strictly(text), parse_strictly(older))
        if result.compatibility is not avro.compatibility.SchemaCompatibilityType.compatible:
            places, messages = ", ".join(sorted(result.locations)), "; ".join(sorted(result.messages))
            kinds = ", ".join(sorted({kind.value for kind in result.incompatibilities}))
            advice = "give new fields a default, only widen types, and keep names and symbols"
            return [f"can't read events of v{version}: {kinds} at {places}: {messages}; {advice}"]
        changes = _changed_columns(text, older)
        if changes:
            return [f"{change} of v{version}; choose another name for the field" for change in changes]
    return []


def _changed_columns(text: str, older: str) -> list[str]:
    before = dict(_shapes(expand(json.loads(older)), ""))
    now = dict(_shapes(expand(json.loads(text)), ""))
    return [
        f"field {now[path][0]}: {now[path][1]} is not the {before[path][1]} column {before[path][0]}"
        for path in now.keys() & before.keys()
        if now[path] != before[path]
    ]


def _shapes(schema: Mapping[str, Any], path: str) -> Iterator[tuple[str, tuple[str, str]]]:
    """Every column below a record by its path in lower case: the path as it is, and what the column holds."""
    for field in schema["fields"]:
        name = f"{path}{field['name']}"
        inner = node(split_union(field["type"])[0])
        repeated = ""
        while inner["type"] in ("array", "map"):
            repeated = f"{inner['type']} of "
            inner = node(split_union(inner["items"] if inner["type"] == "array" else inner["values"])[0])
        if inner["type"] == "record":
            yield name.lower(), (name, f"{repeated}record")
            yield from _shapes(inner, f"{name}.")
        else:
            yield name.lower(), (name, f"{repeated}{_meaning(inner)}")


def _meaning(schema: Mapping[str, Any]) -> str:
    """What a reader must know of a plain type: the column's type, and the unit or scale of its values."""
    if "logicalType" not in schema:
        return column_type(schema)
    digits = f"({schema['precision']}, {schema.get('scale', 0)})" if kind_of(schema) == "decimal" else ""
    return f"{kind_of(schema)}{digits}"
