"""Rules for one version of a contract: it is a valid Avro schema, and a table can have its fields as columns.

The limits are BigQuery's: of names, descriptions and nesting from its pages on table schemas and quotas, of types from its
page on loading Avro.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import avro.errors
import avro.schema
from fastavro import parse_schema
from fastavro.schema import SchemaParseException, UnknownType

from schemas.avro_schemas import avro_type_of, expand, node, split_union
from schemas.buckets import DEAD_LETTERS, EVENT_TYPE_NAME
from schemas.codec.avro_writers import default_bytes
from schemas.codec.readers import InvalidValue
from schemas.envelope import ENVELOPE_FIELDS

VERDICTS = "verdicts"
"""The table of the audit's verdicts. An event type can't have its name."""

MAX_NAME_LENGTH = 300
MAX_DESCRIPTION_LENGTH = 1024
MAX_NESTING = 15
MAX_SCALE = 38
MAX_WHOLE_DIGITS = 38
"""Digits of a BIGNUMERIC before the point. It can store only some numbers with 39 digits."""

_COLUMN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RESERVED_PREFIXES = (
    "_TABLE_",
    "_FILE_",
    "_PARTITION",
    "_ROW_TIMESTAMP",
    "__ROOT__",
    "_COLIDENTIFIER",
    "_CHANGE_SEQUENCE_NUMBER",
    "_CHANGE_TYPE",
    "_CHANGE_TIMESTAMP",
)
_ENVELOPE_NAMES = frozenset(str(field["name"]) for field in ENVELOPE_FIELDS)
_PLAIN_TYPES = frozenset(("boolean", "int", "long", "float", "double", "bytes", "string", "fixed", "enum"))
_LOGICAL_TYPES = frozenset(
    (
        ("int", "date"),
        ("int", "time-millis"),
        ("long", "time-micros"),
        ("long", "timestamp-millis"),
        ("long", "timestamp-micros"),
        ("long", "local-timestamp-millis"),
        ("long", "local-timestamp-micros"),
        ("bytes", "decimal"),
        ("fixed", "decimal"),
        ("string", "uuid"),
    )
)


def event_type_problems(event_type: str) -> Iterator[str]:
    """Yield the problems with the name of an event type."""
    if not EVENT_TYPE_NAME.fullmatch(event_type):
        yield (
            "is not a valid name of an event type. "
            "What to do: use a lower-case letter, then at most 99 lower-case letters, digits and _"
        )
    if event_type in (DEAD_LETTERS, VERDICTS):
        yield "is the name of a built-in table. What to do: choose another name for the event type"


def parse_problems(text: str) -> tuple[Any, list[str]]:
    """Parse a schema with two Avro implementations, Apache's and fastavro.

    Returns:
        The schema as parsed JSON, and the problems. With problems the schema is None.
    """
    try:
        schema = json.loads(text)
    except ValueError as error:
        return None, [f"is not JSON: {error}"]
    try:
        parse_strictly(text)
    except (avro.errors.AvroException, KeyError, TypeError, AttributeError, ValueError) as error:
        return None, [f"is not a valid Avro schema: {error}"]
    try:
        parse_schema(schema)
    except (SchemaParseException, UnknownType, KeyError, TypeError, ValueError) as error:
        return None, [f"is not a valid Avro schema: {error}"]
    return schema, []


def schema_problems(schema: Any, event_type: str) -> list[str]:
    """Return the problems of a valid Avro schema as a contract of `event_type`."""
    if not isinstance(schema, dict) or schema.get("type") != "record":
        return ["must be an Avro record, since its fields become columns"]
    problems: list[str] = []
    if schema["name"].rpartition(".")[2] != event_type:
        problems.append(f"the record is named {schema['name']}, but must be named like its folder, {event_type}")
    expanded = expand(schema)
    taken = (field["name"] for field in expanded["fields"] if field["name"].lower() in _ENVELOPE_NAMES)
    problems += (f"field {name}: the envelope has a column of this name. What to do: choose another name" for name in taken)
    problems += _record_problems(expanded, "", 1)
    return list(dict.fromkeys(problems))


def parse_strictly(text: str) -> avro.schema.Schema:
    """Parse a schema with Apache's implementation.

    Raises:
        avro.errors.AvroException: The schema is invalid.
        KeyError, TypeError, AttributeError, ValueError: The JSON is no schema at all.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # It warns of unknown logical types, which our own rules reject.
        return avro.schema.parse(text)


def _record_problems(schema: Mapping[str, Any], path: str, level: int) -> Iterator[str]:
    if level > MAX_NESTING:
        yield f"field {path}: is nested deeper than {MAX_NESTING} levels"
        return
    seen: dict[str, str] = {}
    for field in schema["fields"]:
        name = f"{path}.{field['name']}" if path else field["name"]
        yield from (f"field {name}: {problem}" for problem in _name_problems(field["name"]))
        first = seen.setdefault(field["name"].lower(), field["name"])
        if first != field["name"]:
            yield f"field {name}: differs from {first} in case only, but column names are not case-sensitive"
        if not isinstance(field.get("doc", ""), str):
            yield f"field {name}: its doc must be a string"
        elif len(field.get("doc", "")) > MAX_DESCRIPTION_LENGTH:
            yield f"field {name}: its doc has more than {MAX_DESCRIPTION_LENGTH} characters"
        type_problems = list(_type_problems(field["type"], name, level))
        yield from type_problems or _default_problems(field, name)


def _name_problems(name: str) -> Iterator[str]:
    if not _COLUMN_NAME.fullmatch(name):
        yield "the name of a column must begin with a letter or _, and have letters, digits and _ only"
    if len(name) > MAX_NAME_LENGTH:
        yield f"the name of a column must have at most {MAX_NAME_LENGTH} characters"
    prefix = next((prefix for prefix in _RESERVED_PREFIXES if name.upper().startswith(prefix)), None)
    if prefix:
        yield f"the name of a column can't begin with {prefix}"


def _type_problems(schema: Any, path: str, level: int, container: str = "") -> Iterator[str]:
    """Yield the problems of the type of a field.

    Args:
        path: The path of the field, for messages.
        level: The nesting level of the field, from 1.
        container: "array" or "map" if the type is that of the container's items or values.
    """
    if isinstance(schema, list):
        problem = _union_problem(schema, container)
        if problem:
            yield f"field {path}: {problem}"
            return
    schema = node(split_union(schema)[0])
    avro_type = schema["type"]
    if avro_type in ("array", "map"):
        if container:
            yield (
                f"field {path}: an array or map directly in an array or map can't be a column. "
                "What to do: put a record between them"
            )
            return
        if avro_type == "map" and level >= MAX_NESTING:
            yield f"field {path}: is nested deeper than {MAX_NESTING} levels"
            return
        items = schema["items"] if avro_type == "array" else schema["values"]
        yield from _type_problems(items, f"{path}[*]", level + (avro_type == "map"), avro_type)
    elif avro_type == "record":
        if not schema["fields"]:
            yield f"field {path}: a record without fields can't be a column"
        yield from _record_problems(schema, path, level + 1)
    elif avro_type == "null":
        yield f"field {path}: null alone can't be a column"
    elif avro_type not in _PLAIN_TYPES:
        yield f"field {path}: {avro_type} contains itself, but a table can't be recursive"
    else:
        yield from (f"field {path}: {problem}" for problem in _plain_problems(schema))


def _union_problem(union: list[Any], container: str) -> str | None:
    branches = [node(branch) for branch in union]
    if len(branches) != 2 or sum(branch["type"] == "null" for branch in branches) != 1:
        return "a union must have null and one other type"
    if node(split_union(union)[0])["type"] in ("array", "map"):
        return "the column of an array or map can't be NULL. What to do: remove null from the union, and make the default empty"
    if container == "array":
        return "items can't be null, since a repeated column can't contain NULL"
    return None


def _plain_problems(schema: Mapping[str, Any]) -> Iterator[str]:
    if schema["type"] == "fixed" and schema["size"] < 1:
        yield "a fixed must have a size of 1 or more"
    if "logicalType" not in schema:
        return
    logical_type = avro_type_of(schema)
    if (schema["type"], logical_type) not in _LOGICAL_TYPES:
        supported = ", ".join(f"{logical} ({plain})" for plain, logical in sorted(_LOGICAL_TYPES))
        yield f"logical type {logical_type} of {schema['type']} can't be a column. What to do: use one of {supported}"
    elif logical_type == "decimal":
        precision, scale = schema.get("precision"), schema.get("scale", 0)
        if type(precision) is not int or type(scale) is not int or not 0 <= scale <= precision or precision < 1:
            yield "a decimal must have a precision of 1 or more, and a scale from 0 to the precision"
        elif scale > MAX_SCALE or precision - scale > MAX_WHOLE_DIGITS:
            yield (
                f"a decimal must have at most {MAX_WHOLE_DIGITS} digits before the point and {MAX_SCALE} after it, "
                "like BIGNUMERIC"
            )


def _default_problems(field: Mapping[str, Any], path: str) -> Iterator[str]:
    if "default" not in field:
        return
    if isinstance(field["type"], list) and (node(field["type"][0])["type"] == "null") != (field["default"] is None):
        yield f"field {path}: the default must have the union's first type. What to do: put the type of the default first"
        return
    try:
        default_bytes(field)
    except InvalidValue as invalid:
        rule = invalid.detail if invalid.steps else invalid.rule
        yield f"field {path}: the default does not fit the type: {rule}"
