"""What makes an Avro schema a contract: it is valid Avro, and it has a table.

Limits of tables are BigQuery's: names, descriptions and nesting from its pages on table schemas and on quotas,
types from its page on loading Avro.
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

from schemas.avro_schemas import expand, kind_of, node, split_union
from schemas.buckets import DEAD_LETTERS, EVENT_TYPE_NAME
from schemas.codec.avro_writers import default_bytes
from schemas.codec.readers import Unfit
from schemas.envelope import ENVELOPE_FIELDS

VERDICTS = "verdicts"
"""The audit's own table."""

MAX_NAME_LENGTH = 300
MAX_DESCRIPTION_LENGTH = 1024
MAX_NESTING = 15
MAX_SCALE = 38
MAX_WHOLE_DIGITS = 38
"""A BIGNUMERIC's digits before the point; it holds only some numbers of 39."""

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
_PLAIN_KINDS = frozenset(("boolean", "int", "long", "float", "double", "bytes", "string", "fixed", "enum"))
_LOGICAL_KINDS = frozenset(
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
    """What is wrong with the name of an event type."""
    if not EVENT_TYPE_NAME.fullmatch(event_type):
        yield "is no name for an event type; use a lower-case letter, then at most 99 lower-case letters, digits and _"
    if event_type in (DEAD_LETTERS, VERDICTS):
        yield "is the name of a table of our own; choose another name for the event type"


def parse_problems(text: str) -> tuple[Any, list[str]]:
    """The schema as JSON, and what two Avro implementations, Apache's and fastavro, find wrong with it."""
    try:
        raw = json.loads(text)
    except ValueError as error:
        return None, [f"is not JSON: {error}"]
    try:
        parse_strictly(text)
    except (avro.errors.AvroException, KeyError, TypeError, AttributeError, ValueError) as error:
        return None, [f"is not a valid Avro schema: {error}"]
    try:
        parse_schema(raw)
    except (SchemaParseException, UnknownType, KeyError, TypeError, ValueError) as error:
        return None, [f"is not a valid Avro schema: {error}"]
    return raw, []


def schema_problems(raw: Any, event_type: str) -> list[str]:
    """What is wrong with one version of `event_type`, beyond being Avro."""
    if not isinstance(raw, dict) or raw.get("type") != "record":
        return ["must be an Avro record, as its fields become columns"]
    problems: list[str] = []
    if raw["name"].rpartition(".")[2] != event_type:
        problems.append(f"the record's name is {raw['name']}; it must be the event type, {event_type}, like the folder's")
    schema = expand(raw)
    taken = (field["name"] for field in schema["fields"] if field["name"].lower() in _ENVELOPE_NAMES)
    problems += (f"field {name}: the envelope has a column of this name; choose another" for name in taken)
    problems += _record_problems(schema, "", 1)
    return list(dict.fromkeys(problems))


def parse_strictly(text: str) -> avro.schema.Schema:
    """The schema by Apache's implementation. Raises AvroException, or what it raises of itself on odd JSON."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a logical type that Avro does not know is refused by our own rules
        return avro.schema.parse(text)


def _record_problems(schema: Mapping[str, Any], path: str, level: int) -> Iterator[str]:
    if level > MAX_NESTING:
        yield f"field {path}: is nested deeper than {MAX_NESTING} levels"
        return
    seen: dict[str, str] = {}
    for field in schema["fields"]:
        name = f"{path}.{field['name']}" if path else field["name"]
        yield from (f"field {name}: {problem}" for problem in _name_problems(field["name"]))
        same = seen.setdefault(field["name"].lower(), field["name"])
        if same != field["name"]:
            yield f"field {name}: differs from {same} in case only, which is the same column"
        if not isinstance(field.get("doc", ""), str):
            yield f"field {name}: its doc must be a string"
        elif len(field.get("doc", "")) > MAX_DESCRIPTION_LENGTH:
            yield f"field {name}: its doc has more than {MAX_DESCRIPTION_LENGTH} characters"
        found = list(_type_problems(field["type"], name, level))
        yield from found or _default_problems(field, name)


def _name_problems(name: str) -> Iterator[str]:
    if not _COLUMN_NAME.fullmatch(name):
        yield "a column's name begins with a letter or _, and has letters, digits and _ only"
    if len(name) > MAX_NAME_LENGTH:
        yield f"a column's name has at most {MAX_NAME_LENGTH} characters"
    prefix = next((prefix for prefix in _RESERVED_PREFIXES if name.upper().startswith(prefix)), None)
    if prefix:
        yield f"a column's name can't begin with {prefix}"


def _type_problems(schema: Any, path: str, level: int, holder: str = "") -> Iterator[str]:
    """holder: array or map, where the type is directly that of its items or values."""
    if isinstance(schema, list):
        branches = [node(branch) for branch in schema]
        if len(branches) != 2 or sum(branch["type"] == "null" for branch in branches) != 1:
            yield f"field {path}: a union can only be of null and one other type"
            return
        schema = split_union(schema)[0]
        if node(schema)["type"] in ("array", "map"):
            yield f"field {path}: a column of an array or map is never NULL; leave null out, and make the default empty"
            return
        if holder == "array":
            yield f"field {path}: items can't be null, as a column has no NULL among repeated values"
            return
    schema = node(schema)
    kind = schema["type"]
    if kind in ("array", "map"):
        if holder:
            yield f"field {path}: an array or map directly in another has no column; put a record between them"
            return
        if kind == "map" and level >= MAX_NESTING:
            yield f"field {path}: is nested deeper than {MAX_NESTING} levels"
            return
        below = schema["items"] if kind == "array" else schema["values"]
        yield from _type_problems(below, f"{path}[*]", level + (kind == "map"), kind)
    elif kind == "record":
        if not schema["fields"]:
            yield f"field {path}: a record without fields has no column"
        yield from _record_problems(schema, path, level + 1)
    elif kind == "null":
        yield f"field {path}: null alone has no column"
    elif kind not in _PLAIN_KINDS:
        yield f"field {path}: {kind} within itself has no column; a table can't be recursive"
    else:
        yield from (f"field {path}: {problem}" for problem in _plain_problems(schema))


def _plain_problems(schema: Mapping[str, Any]) -> Iterator[str]:
    if schema["type"] == "fixed" and schema["size"] < 1:
        yield "a fixed must have a size of 1 or more"
    if "logicalType" not in schema:
        return
    kind = kind_of(schema)
    if (schema["type"], kind) not in _LOGICAL_KINDS:
        known = ", ".join(f"{logical} ({plain})" for plain, logical in sorted(_LOGICAL_KINDS))
        yield f"logical type {kind} of {schema['type']} has no column; there are {known}"
    elif kind == "decimal":
        precision, scale = schema.get("precision"), schema.get("scale", 0)
        if type(precision) is not int or type(scale) is not int or not 0 <= scale <= precision or precision < 1:
            yield "a decimal needs a precision of 1 or more, and a scale from 0 to the precision"
        elif scale > MAX_SCALE or precision - scale > MAX_WHOLE_DIGITS:
            yield f"a decimal can have {MAX_WHOLE_DIGITS} digits before the point and {MAX_SCALE} after it, as BIGNUMERIC has"


def _default_problems(field: Mapping[str, Any], path: str) -> Iterator[str]:
    if "default" not in field:
        return
    if isinstance(field["type"], list) and (node(field["type"][0])["type"] == "null") != (field["default"] is None):
        yield f"field {path}: the default must be of the union's first type; put that type first"
        return
    try:
        default_bytes(field)
    except Unfit as unfit:
        yield f"field {path}: the default breaks the type: {unfit.detail.replace('payload', 'it', 1)}"
