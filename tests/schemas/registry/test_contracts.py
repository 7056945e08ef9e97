"""Contracts in their folder: found by type and version, and every problem of every file told at once."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from schemas.outcomes import Reason, Rejected, Stage
from schemas.registry.contracts import ContractError, load_contracts
from tests.support.contracts import field, problems_of, record, write_contract


def test_the_packaged_contracts_pass_their_own_check() -> None:
    contracts = load_contracts()
    assert {"flight_arrived", "flight_cancelled", "flight_departed", "weather_observed"} <= set(contracts.types)


def test_every_packaged_field_is_described() -> None:
    contracts = load_contracts()
    for event_type in contracts.types:
        for contract in contracts.versions(event_type):
            assert contract.schema["doc"], contract.path
            assert [one["name"] for one in contract.schema["fields"] if not one.get("doc")] == [], contract.path


def test_types_are_sorted_and_versions_are_in_the_order_of_numbers(tmp_path: Path) -> None:
    for version in (10, 2, 1):
        write_contract(tmp_path, record("thing"), version=version)
    write_contract(tmp_path, record("another"), "another")
    contracts = load_contracts(tmp_path)
    assert contracts.types == ("another", "thing")
    assert [contract.version for contract in contracts.versions("thing")] == [1, 2, 10]
    assert contracts.newest("thing").version == 10


def test_a_version_is_found_by_its_text_and_the_newest_without_one(tmp_path: Path) -> None:
    for version in (1, 2):
        write_contract(tmp_path, record("thing"), version=version)
    contracts = load_contracts(tmp_path)
    assert contracts.get("thing", "1").version == 1
    assert contracts.get("thing", None) is contracts.newest("thing")


def test_an_unknown_type_is_rejected() -> None:
    with pytest.raises(Rejected) as rejected:
        load_contracts().get("flight_lost", None)
    assert (rejected.value.stage, rejected.value.reason) == (Stage.ENVELOPE, Reason.UNKNOWN_TYPE)


@pytest.mark.parametrize("version", ["99", "0", "-1", "1.0", "01", " 1", "v1", "one", "", "\N{ARABIC-INDIC DIGIT ONE}"])
def test_an_unknown_version_is_rejected_with_the_known_ones(version: str) -> None:
    with pytest.raises(Rejected) as rejected:
        load_contracts().get("flight_departed", version)
    assert (rejected.value.stage, rejected.value.reason) == (Stage.ENVELOPE, Reason.UNKNOWN_VERSION)
    assert rejected.value.detail == "attribute schema_version must be one of the versions of flight_departed: 1"


def test_contracts_travel_to_another_process_and_keep_their_identities() -> None:
    contracts = load_contracts()
    data = pickle.dumps(contracts)
    copy = pickle.loads(data)
    assert copy.types == contracts.types
    assert copy.get("flight_departed", "1") is copy.newest("flight_departed")
    assert copy.newest("flight_departed").schema == contracts.newest("flight_departed").schema
    assert len(data) < 5000 * len(contracts.types)


def test_files_that_begin_with_a_dot_are_passed_over(tmp_path: Path) -> None:
    write_contract(tmp_path, record("thing")).with_name(".v1.avsc.swp").write_text("")
    (tmp_path / ".gitkeep").write_text("")
    assert load_contracts(tmp_path).types == ("thing",)


def test_every_problem_of_every_file_is_told_at_once(tmp_path: Path) -> None:
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


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    assert "has no contracts" in problems_of(tmp_path)[0]
    (tmp_path / "thing").mkdir()
    assert "has no versions" in problems_of(tmp_path)[0]


@pytest.mark.parametrize(
    "name", ["README.md", "thing/notes.txt", "thing/v0.avsc", "thing/v01.avsc", "thing/V1.avsc", "thing/v1.json"]
)
def test_a_stray_file_is_refused_by_its_name(tmp_path: Path, name: str) -> None:
    write_contract(tmp_path, record("thing"), version=7)
    (tmp_path / name).write_text("{}")
    (problem,) = problems_of(tmp_path)
    assert problem.startswith(f"{tmp_path / name}: is not a contract")


def test_a_folder_in_the_place_of_a_version_is_refused(tmp_path: Path) -> None:
    write_contract(tmp_path, record("thing"))
    (tmp_path / "thing" / "v2.avsc").mkdir()
    assert "is not a contract" in problems_of(tmp_path)[0]


def run_check(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "schemas.registry.check", *arguments]
    root = Path(__file__).parents[3]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)


def test_the_check_prints_a_line_for_each_type(tmp_path: Path) -> None:
    write_contract(tmp_path, record("thing"), version=2)
    write_contract(tmp_path, record("thing"), version=1)
    write_contract(tmp_path, record("another"), "another")
    result = run_check(str(tmp_path))
    assert (result.returncode, result.stdout, result.stderr) == (0, "another v1\nthing v1 v2\n", "")


def test_check__prints_every_problem_on_stderr(tmp_path: Path) -> None:
    files = [write_contract(tmp_path, "{", "thing", version) for version in range(1, 8)]
    result = run_check(str(tmp_path))
    assert (result.returncode, result.stdout) == (1, "")
    assert [line.split(": is not JSON")[0] for line in result.stderr.splitlines()] == [*map(str, files)]


def test_check__fails_on_a_missing_folder(tmp_path: Path) -> None:
    result = run_check(str(tmp_path / "nowhere"))
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert result.stderr.startswith(f"error: {tmp_path / 'nowhere'}: there is no such folder")
