"""Contracts in their folder: look-up by event type and version, and the problems of all files."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from schemas.outcomes import Reason, Rejected, Stage
from schemas.registry.contracts import ContractError, load_contracts
from tests.support.contracts import field, problems_of, record, write_contract


def test_load_contracts__accepts_the_packaged_contracts() -> None:
    contracts = load_contracts()
    assert {"flight_arrived", "flight_cancelled", "flight_departed", "weather_observed"} <= set(contracts.types)


def test_packaged_contracts__describe_every_field() -> None:
    contracts = load_contracts()
    for event_type in contracts.types:
        for contract in contracts.versions(event_type):
            assert contract.schema["doc"], contract.path
            assert [column["name"] for column in contract.schema["fields"] if not column.get("doc")] == [], contract.path


def test_contracts__are_sorted(tmp_path: Path) -> None:
    """Event types are sorted by name, and versions by number."""
    for version in (10, 2, 1):
        write_contract(tmp_path, record("thing"), version=version)
    write_contract(tmp_path, record("another"), "another")
    contracts = load_contracts(tmp_path)
    assert contracts.types == ("another", "thing")
    assert [contract.version for contract in contracts.versions("thing")] == [1, 2, 10]
    assert contracts.newest("thing").version == 10


def test_get__by_version_or_newest(tmp_path: Path) -> None:
    """A version is found by its text; without a version the newest contract is returned."""
    for version in (1, 2):
        write_contract(tmp_path, record("thing"), version=version)
    contracts = load_contracts(tmp_path)
    assert contracts.get("thing", "1").version == 1
    assert contracts.get("thing", None) is contracts.newest("thing")


def test_get__rejects_an_unknown_event_type() -> None:
    with pytest.raises(Rejected) as rejected:
        load_contracts().get("flight_lost", None)
    assert (rejected.value.stage, rejected.value.reason) == (Stage.ENVELOPE, Reason.UNKNOWN_TYPE)


@pytest.mark.parametrize("version", ["99", "0", "-1", "1.0", "01", " 1", "v1", "one", "", "\N{ARABIC-INDIC DIGIT ONE}"])
def test_get__rejects_an_unknown_version(version: str) -> None:
    """The detail lists the versions that exist."""
    with pytest.raises(Rejected) as rejected:
        load_contracts().get("flight_departed", version)
    assert (rejected.value.stage, rejected.value.reason) == (Stage.ENVELOPE, Reason.UNKNOWN_VERSION)
    assert rejected.value.detail == "attribute schema_version must be one of the versions of flight_departed: 1"


def test_contracts__survive_pickling() -> None:
    """Identical contracts remain identical, and each is pickled only once."""
    contracts = load_contracts()
    data = pickle.dumps(contracts)
    copy = pickle.loads(data)
    assert copy.types == contracts.types
    assert copy.get("flight_departed", "1") is copy.newest("flight_departed")
    assert copy.newest("flight_departed").schema == contracts.newest("flight_departed").schema
    assert len(data) < 5000 * len(contracts.types)


def test_load_contracts__ignores_files_that_begin_with_a_dot(tmp_path: Path) -> None:
    write_contract(tmp_path, record("thing")).with_name(".v1.avsc.swp").write_text("")
    (tmp_path / ".gitkeep").write_text("")
    assert load_contracts(tmp_path).types == ("thing",)


def test_load_contracts__lists_all_problems_of_all_files(tmp_path: Path) -> None:
    first = write_contract(tmp_path, record("thing", field("event_id", "string"), field("_file_x", ["int", "string"])))
    second = write_contract(tmp_path, "{", "other")
    assert [line.split(": ")[0] for line in problems_of(tmp_path)] == [str(second)] + 3 * [str(first)]


def test_load_contracts__refuses_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="no such folder") as error:
        load_contracts(tmp_path / "nowhere")
    assert error.value.problems == ()


def test_load_contracts__counts_problems_in_its_message(tmp_path: Path) -> None:
    files = [write_contract(tmp_path, "{", "thing", version) for version in range(1, 8)]
    with pytest.raises(ContractError) as error:
        load_contracts(tmp_path)
    head, *lines = str(error.value).splitlines()
    assert head == f"{tmp_path}: 7 problems:"
    assert [line.split(": ")[0] for line in lines] == [*(f"  {file}" for file in files[:5]), "  and 2 more"]
    assert len(error.value.problems) == 7


def test_load_contracts__rejects_an_empty_folder(tmp_path: Path) -> None:
    """The same holds for an event type without versions."""
    assert "has no contracts" in problems_of(tmp_path)[0]
    (tmp_path / "thing").mkdir()
    assert "has no versions" in problems_of(tmp_path)[0]


@pytest.mark.parametrize(
    "name", ["README.md", "thing/notes.txt", "thing/v0.avsc", "thing/v01.avsc", "thing/V1.avsc", "thing/v1.json"]
)
def test_load_contracts__rejects_a_stray_file(tmp_path: Path, name: str) -> None:
    write_contract(tmp_path, record("thing"), version=7)
    (tmp_path / name).write_text("{}")
    (problem,) = problems_of(tmp_path)
    assert problem.startswith(f"{tmp_path / name}: is not a contract")


def test_load_contracts__rejects_a_folder_as_version(tmp_path: Path) -> None:
    write_contract(tmp_path, record("thing"))
    (tmp_path / "thing" / "v2.avsc").mkdir()
    assert "is not a contract" in problems_of(tmp_path)[0]
