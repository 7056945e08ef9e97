"""Queries in BigQuery's SQL over rows of the stand-in, run by ZetaSQL, Google's reference implementation."""

from __future__ import annotations

import fcntl
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from tests.support.bigquery_loads import JobError

Json = dict[str, Any]


class Rows(Protocol):
    """The part of a table that a query needs."""

    resource: Json

    @property
    def fields(self) -> list[Json]: ...

    def rows(self) -> list[Json]: ...


_LOCK = Path.home() / ".cache" / "event-delivery" / "zetasql.lock"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_KINDS = {
    "STRING": "TYPE_STRING",
    "INTEGER": "TYPE_INT64",
    "FLOAT": "TYPE_DOUBLE",
    "BOOLEAN": "TYPE_BOOL",
    "TIMESTAMP": "TYPE_INT64",
}
_ANSWERS = {
    "TYPE_STRING": "STRING",
    "TYPE_INT64": "INTEGER",
    "TYPE_DOUBLE": "FLOAT",
    "TYPE_BOOL": "BOOLEAN",
    "TYPE_TIMESTAMP": "TIMESTAMP",
}
_FILTER = r"WHERE[^()]*`?\b{by}\b`?\s*(?:=|<=?|>=?|BETWEEN)\s*(?:@|TIMESTAMP)"
_KNOWN = {"query", "useLegacySql", "queryParameters", "parameterMode"}


def query(configuration: Json, dataset: str, tables: Mapping[str, Rows]) -> tuple[list[Json], list[Json]]:
    """Run a query and return the schema and the rows of its result.

    Implements columns of five plain types, parameters of type TIMESTAMP, and one table per query.

    Raises:
        JobError: as BigQuery would refuse the query
    """
    if configuration.keys() - _KNOWN or configuration["useLegacySql"] is not False:
        raise JobError("notImplemented", f"this server does not implement all of {configuration.keys()} in a query")
    sql = configuration["query"]
    name = re.search(rf"`{re.escape(dataset)}\.(\w+)`", sql)
    if not name:
        raise JobError("notImplemented", f"this server runs queries over a table `{dataset}.name`")
    if name[1] not in tables:
        raise JobError("notFound", f"Not found: Table {dataset}.{name[1]}")
    table = tables[name[1]]
    partition_column = table.resource["timePartitioning"]["field"]
    if table.resource.get("requirePartitionFilter") and not re.search(_FILTER.format(by=partition_column), sql):
        problem = f"Cannot query over table '{dataset}.{name[1]}' without a filter over column(s) '{partition_column}'"
        raise JobError("invalidQuery", f"{problem} that can be used for partition elimination")
    for parameter in configuration.get("queryParameters", ()):
        if parameter["parameterType"] != {"type": "TIMESTAMP"}:
            raise JobError("notImplemented", f"this server does not implement parameters of {parameter['parameterType']}")
        sql = re.sub(rf"@{parameter['name']}\b", f"TIMESTAMP '{parameter['parameterValue']['value']}'", sql)

    columns = [field for field in table.fields if field["mode"] != "REPEATED" and field["type"] in _KINDS]
    selected = (f"TIMESTAMP_MICROS({c['name']}) AS {c['name']}" if c["type"] == "TIMESTAMP" else c["name"] for c in columns)
    sql = sql.replace(name[0], f"(SELECT {', '.join(selected)} FROM stored)")
    rows = [[_plain(row.get(column["name"])) for column in columns] for row in table.rows()]
    return _run(sql, [(column["name"], _KINDS[column["type"]]) for column in columns], rows)


def _plain(value: Any) -> Any:
    return (value - _EPOCH) // timedelta(microseconds=1) if isinstance(value, datetime) else value


@cache
def _engine() -> tuple[Any, Any, Any]:
    """Import ZetaSQL late: the first import on a machine compiles WebAssembly for half a minute, later ones read its cache."""
    from zetasql.core import wasm_client

    configuration = wasm_client.Config

    def with_cache() -> Any:
        config = configuration()
        config.cache = True
        return config

    wasm_client.Config = with_cache
    _LOCK.parent.mkdir(parents=True, exist_ok=True)
    with _LOCK.open("w") as lock:
        # One process compiles, the others wait for it.
        fcntl.flock(lock, fcntl.LOCK_EX)
        import zetasql.api
        from zetasql.types import AnalyzerOptions, LanguageOptions, ZetaSQLBuiltinFunctionOptions

    language = LanguageOptions.maximum_features()
    return zetasql.api, AnalyzerOptions(language_options=language), ZetaSQLBuiltinFunctionOptions(language_options=language)


def _run(sql: str, columns: list[tuple[str, str]], rows: list[list[Any]]) -> tuple[list[Json], list[Json]]:
    api, options, functions = _engine()
    from zetasql.core.exceptions import ZetaSQLError
    from zetasql.types import TypeKind

    stored = api.TableBuilder("stored")
    for name, kind in columns:
        stored = stored.add_column(name, getattr(TypeKind, kind))
    catalog = api.CatalogBuilder("dataset").add_table(stored.build()).with_builtin_functions(functions).build()

    def prepare(text: str) -> Any:
        content = {"stored": api.create_table_content(rows)}
        return (
            api.PreparedQuery.builder()
            .set_sql(text)
            .set_analyzer_options(options)
            .set_catalog(catalog)
            .set_table_content(content)
            .prepare()
        )

    try:
        with prepare(sql) as original:
            kinds = {column.name: _ANSWERS[column.type.type_kind.name] for column in original.columns}
        # The engine returns a timestamp as an opaque value, so the query converts it to a number.
        selected = ", ".join(f"UNIX_MICROS({name}) AS {name}" if kind == "TIMESTAMP" else name for name, kind in kinds.items())
        with prepare(f"SELECT {selected} FROM ({sql})") as converted:
            content = converted.execute().content
            rows_found = content.table_data.row if content.table_data else []
    except ZetaSQLError as error:
        raise JobError("invalidQuery", str(error)) from error
    fields = [{"name": name, "type": kind, "mode": "NULLABLE"} for name, kind in kinds.items()]
    return fields, [
        {name: _read(cell, kind) for cell, (name, kind) in zip(row.cell, kinds.items(), strict=True)} for row in rows_found
    ]


def _read(cell: Any, kind: str) -> Any:
    if kind == "TIMESTAMP":
        return None if cell.int64_value is None else _EPOCH + timedelta(microseconds=cell.int64_value)
    return {"STRING": cell.string_value, "INTEGER": cell.int64_value, "FLOAT": cell.double_value, "BOOLEAN": cell.bool_value}[
        kind
    ]
