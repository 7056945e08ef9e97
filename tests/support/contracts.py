"""Contracts for tests: built from fields without files, or written to a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fastavro import parse_schema

from schemas.registry.contracts import Contract, ContractError, load_contracts


def record(name: str, *fields: dict[str, Any]) -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": list(fields)}


def field(name: str, avro_type: Any, **attributes: Any) -> dict[str, Any]:
    return {"name": name, "type": avro_type, **attributes}


def contract_of(*fields: dict[str, Any], version: int = 1) -> Contract:
    """Build a contract of the event type `thing` without running the contract check."""
    schema = parse_schema(record("thing", *fields))
    assert isinstance(schema, dict)
    return Contract("thing", version, schema, Path(f"thing/v{version}.avsc"))


def write_contract(folder: Path, schema: Any, event_type: str = "thing", version: int = 1) -> Path:
    """Write a schema where `load_contracts` looks for it. A string is written unchanged, anything else as JSON."""
    path = folder / event_type / f"v{version}.avsc"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(schema if isinstance(schema, str) else json.dumps(schema))
    return path


def problems_of(folder: Path) -> list[str]:
    """Return the lines of the ContractError that loading the folder raises."""
    with pytest.raises(ContractError) as error:
        load_contracts(folder)
    return list(error.value.problems)


def problem_of(folder: Path, *fields: dict[str, Any]) -> str:
    """Return the only problem of a contract with these fields, without the file name at its start."""
    path = write_contract(folder, record("thing", *fields))
    (problem,) = problems_of(folder)
    assert problem.startswith(f"{path}: ")
    return problem.removeprefix(f"{path}: ")


def load_one(folder: Path, *fields: dict[str, Any]) -> Contract:
    """Write a contract with these fields and load it."""
    write_contract(folder, record("thing", *fields))
    return load_contracts(folder).newest("thing")


def problem_of_versions(folder: Path, *versions: list[dict[str, Any]]) -> str:
    """Return the only problem of these versions of one type. It must be the last version's."""
    for number, fields in enumerate(versions, start=1):
        path = write_contract(folder, record("thing", *fields), version=number)
    (problem,) = problems_of(folder)
    assert problem.startswith(f"{path}: ")
    return problem
