"""Contracts: the Avro schema of each version of each event type, loaded from a folder and checked before a pipeline starts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from fastavro import parse_schema

from schemas.envelope import EVENT_TYPE, SCHEMA_VERSION
from schemas.errors import EventDeliveryError, with_list
from schemas.outcomes import Reason, Rejected, Stage
from schemas.registry.compatibility import incompatibilities
from schemas.registry.rules import event_type_problems, parse_problems, schema_problems

DEFAULT_FOLDER = Path(__file__).parents[1] / "contracts"
"""The folder of the contracts in this package."""

_FILE_NAME = re.compile(r"v([1-9][0-9]{0,8})\.avsc")


class ContractError(EventDeliveryError):
    """A folder of contracts can't be used. The message lists the first few problems."""

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)
        """All problems, each of one line that begins with the name of its file. Empty if the folder does not exist."""


@dataclass(frozen=True, eq=False)
class Contract:
    """The contract of one version of one event type. Contracts are compared by identity."""

    event_type: str
    version: int

    schema: dict[str, Any]
    """The Avro schema as parsed by fastavro."""

    path: Path
    """The file that the contract was loaded from."""


@dataclass(frozen=True)
class Contracts:
    """All contracts of a folder."""

    _by_version: Mapping[str, Mapping[str | None, Contract]]
    """Event type -> value of a message's attribute schema_version -> contract.

    The key None, for messages without the attribute, has the newest version.
    """

    @property
    def types(self) -> tuple[str, ...]:
        """The event types in alphabetical order."""
        return tuple(sorted(self._by_version))

    def newest(self, event_type: str) -> Contract:
        """Return the highest version of an event type; KeyError if it has no contract."""
        return self._by_version[event_type][None]

    def versions(self, event_type: str) -> tuple[Contract, ...]:
        """Return all versions of an event type, the lowest first; KeyError if it has no contract."""
        return tuple(contract for version, contract in self._by_version[event_type].items() if version is not None)

    def get(self, event_type: str, version: str | None) -> Contract:
        """Return the contract of a message.

        Args:
            event_type: The message's attribute event_type.
            version: The message's attribute schema_version: an integer without sign and leading zeros. None means the
                newest version.

        Raises:
            Rejected: The event type has no contract, or not this version.
        """
        by_version = self._by_version.get(event_type)
        if by_version is None:
            raise Rejected(Stage.ENVELOPE, Reason.UNKNOWN_TYPE, f"there is no contract for the value of attribute {EVENT_TYPE}")
        contract = by_version.get(version)
        if contract is None:
            known_versions = ", ".join(str(contract.version) for contract in self.versions(event_type))
            detail = f"attribute {SCHEMA_VERSION} must be one of the versions of {event_type}: {known_versions}"
            raise Rejected(Stage.ENVELOPE, Reason.UNKNOWN_VERSION, detail)
        return contract


def load_contracts(folder: Path = DEFAULT_FOLDER) -> Contracts:
    """Load and check all files `<event_type>/v<N>.avsc` of a folder.

    Versions are positive integers and may have gaps. Files whose name begins with a dot are ignored, since editors and file
    managers create them.

    Raises:
        ContractError: The folder does not exist or is empty, or a file is not a contract. Or a version breaks a rule
            (`schemas.registry.rules`) or is incompatible with an earlier one (`schemas.registry.compatibility`).
    """
    if not folder.is_dir():
        raise ContractError(f"{folder}: there is no such folder. What to do: name a folder with <event_type>/v1.avsc files")
    problems: list[str] = []
    by_version: dict[str, dict[str | None, Contract]] = {}
    for entry in _entries(folder):
        if not entry.is_dir():
            problems.append(f"{entry}: is not a contract. What to do: name it <event_type>/v<N>.avsc, or remove it")
            continue
        problems += (f"{entry}: {problem}" for problem in event_type_problems(entry.name))
        contracts = _load_versions(entry, problems)
        by_version[entry.name] = {str(contract.version): contract for contract in contracts}
        if contracts:
            by_version[entry.name][None] = contracts[-1]
    if not by_version and not problems:
        problems.append(f"{folder}: has no contracts. What to do: add <event_type>/v1.avsc")
    if problems:
        lines = [" ".join(problem.split()) for problem in problems]
        raise ContractError(lines[0] if len(lines) == 1 else with_list(f"{folder}: {len(lines)} problems:", lines), lines)
    return Contracts(by_version)


def _entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _load_versions(folder: Path, problems: list[str]) -> list[Contract]:
    """Return the valid contracts of an event type, the lowest version first; append the others' problems to `problems`."""
    paths: dict[int, Path] = {}
    for entry in _entries(folder):
        match = _FILE_NAME.fullmatch(entry.name)
        if match and entry.is_file():
            paths[int(match[1])] = entry
        else:
            problems.append(f"{entry}: is not a contract. What to do: name it v1.avsc, v2.avsc and so on, or remove it")
    if not paths:
        problems.append(f"{folder}: has no versions. What to do: add v1.avsc")
    texts: dict[Contract, str] = {}
    for version, path in sorted(paths.items()):
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            problems.append(f"{path}: can't be read: {error}")
            continue
        schema, version_problems = parse_problems(text)
        if not version_problems:
            version_problems = schema_problems(schema, folder.name)
        if not version_problems:
            contract = Contract(folder.name, version, cast(dict[str, Any], parse_schema(schema)), path)
            earlier = [(older.version, older_text) for older, older_text in texts.items()]
            version_problems = incompatibilities(text, earlier)
            texts[contract] = text
        problems += (f"{path}: {problem}" for problem in version_problems)
    return list(texts)
