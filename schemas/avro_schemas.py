"""Views of Avro schemas: named types expanded, unions split, the short forms of types unified."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from fastavro.schema import expand_schema


def expand(schema: Any) -> dict[str, Any]:
    """Replace each type name in a record's schema by its definition, except in a recursive type."""
    return cast(dict[str, Any], expand_schema(schema))


def split_union(schema: Any) -> tuple[Any, bool]:
    """Return the type without null, and whether null is allowed. A union must have null and one other type."""
    if not isinstance(schema, list):
        return schema, False
    (inner,) = (branch for branch in schema if node(branch)["type"] != "null")
    return inner, True


def node(schema: Any) -> Mapping[str, Any]:
    """Return the schema in its long form: "int" becomes {"type": "int"}."""
    return schema if isinstance(schema, Mapping) else {"type": schema}


def avro_type_of(schema: Mapping[str, Any]) -> str:
    """Return the logical type if the schema has one, else the Avro type."""
    return str(schema.get("logicalType", schema["type"]))
