"""The shape of Avro schemas: names replaced by what they stand for, and what is left of a union without its null."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from fastavro.schema import expand_schema


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


def kind_of(schema: Mapping[str, Any]) -> str:
    """The logical type where there is one, the Avro type otherwise."""
    return str(schema.get("logicalType", schema["type"]))
