"""Contracts for tests: made of fields, without files, or written to a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fastavro import parse_schema

from schemas.registry.contracts import Contract, ContractError, load_contracts


def record(name: str, *fields: dict[str, Any]) -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": list(fields)}


def field(name: str, kind: Any, **more: Any) -> dict[str, Any]:
    return {"name": name, "type": kind, **more}


def contract_of(*fields: dict[str, Any], version: int = 1) -> Contract:
    """A contract of the event type `thing` that has passed no check."""
    schema = parse_schema(record("thing", *fields))
    assert isinstance(schema, dict)
    return Contract("thing", version, schema, Path(f"thing/v{version}.avsc"))


def write_contract(folder: Path, schema: Any, event_type: str = "thing", version: int = 1) -> Path:
    """Writes a schema, as JSON or as the text it is, where `load_contracts` looks for it."""
    path = folder / event_type / f"v{version}.avsc"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(schema if isinstance(schema, str) else json.dumps(schema))
    return path


def problems_of(folder: Path) -> list[str]:
    with pytest.raises(ContractError) as error:
        load_contracts(folder)
    return list(error.value.problems)


def problem_of(folder: Path, *fields: dict[str, Any]) -> str:
    """The only problem of a contract with these fields, without the file's name that begins it."""
    path = write_contract(folder, record("thing", *fields))
    (problem,) = problems_of(folder)
    assert problem.startswith(f"{path}: ")
    return problem.removeprefix(f"{path}: ")


def load_one(folder: Path, *fields: dict[str, Any]) -> Contract:
    write_contract(folder, record("thing", *fields))
    return load_contracts(folder).newest("thing")


def problem_of_versions(folder: Path, *versions: list[dict[str, Any]]) -> str:
    """The only problem of these versions of one type, which must be the last one's."""
    for number, fields in enumerate(versions, start=1):
        path = write_contract(folder, record("thing", *fields), version=number)
    (problem,) = problems_of(folder)
    assert problem.startswith(f"{path}: ")
    return problem
