"""Contracts: the Avro schema of each version of each event type, read from a folder and checked before anything starts."""

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
"""The contracts that come with the package."""

_FILE_NAME = re.compile(r"v([1-9][0-9]{0,8})\.avsc")


class ContractError(EventDeliveryError):
    """Contracts can't be used. The message lists the first few problems, and `problems` all of them."""

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)
        """One line each, which begins with the name of the file. Empty if the folder can't be read."""


@dataclass(frozen=True, eq=False)
class Contract:
    """One version of one event type. schema: as fastavro parsed it. A contract equals itself only."""

    event_type: str
    version: int
    schema: dict[str, Any]
    path: Path


@dataclass(frozen=True)
class Contracts:
    """Every contract of a folder: event type -> what a message's schema_version may say -> contract.

    None, for a message that does not say, stands for the newest version.
    """

    _by_version: Mapping[str, Mapping[str | None, Contract]]

    @property
    def types(self) -> tuple[str, ...]:
        """The event types in alphabetical order."""
        return tuple(sorted(self._by_version))

    def newest(self, event_type: str) -> Contract:
        """The highest version of a type. KeyError for a type that has no contract."""
        return self._by_version[event_type][None]

    def versions(self, event_type: str) -> tuple[Contract, ...]:
        """All versions of a type, the lowest first. KeyError for a type that has no contract."""
        return tuple(contract for version, contract in self._by_version[event_type].items() if version is not None)

    def get(self, event_type: str, version: str | None) -> Contract:
        """The contract that a message names by its attributes as they stand; version None means the newest.

        Raises Rejected for a type without a contract, and for a version that is none of the type's,
        written as a whole number without a sign or leading zeros.
        """
        by_version = self._by_version.get(event_type)
        if by_version is None:
            raise Rejected(Stage.ENVELOPE, Reason.UNKNOWN_TYPE, f"attribute {EVENT_TYPE} names no contract")
        contract = by_version.get(version)
        if contract is None:
            known = ", ".join(str(one.version) for one in self.versions(event_type))
            detail = f"attribute {SCHEMA_VERSION} must be a version of {event_type}: {known}"
            raise Rejected(Stage.ENVELOPE, Reason.UNKNOWN_VERSION, detail)
        return contract


def load_contracts(folder: Path = DEFAULT_FOLDER) -> Contracts:
    """Reads and checks `<event_type>/v<N>.avsc`. Versions are any positive numbers; a gap is no mistake.

    Files whose name begins with a dot are passed over, since editors and file managers leave them.
    Raises ContractError for anything else that is not a contract, and for every rule that is broken:
    by each version alone (`schemas.registry.rules`), and against all before it (`schemas.registry.compatibility`).
    """
    if not folder.is_dir():
        raise ContractError(f"{folder}: there is no such folder; name one that holds <event_type>/v1.avsc")
    problems: list[str] = []
    by_version: dict[str, dict[str | None, Contract]] = {}
    for entry in _entries(folder):
        if not entry.is_dir():
            problems.append(f"{entry}: does not belong here; contracts are <event_type>/v<N>.avsc")
            continue
        problems += (f"{entry}: {problem}" for problem in event_type_problems(entry.name))
        contracts = _load_versions(entry, problems)
        by_version[entry.name] = {str(contract.version): contract for contract in contracts}
        if contracts:
            by_version[entry.name][None] = contracts[-1]
    if not by_version and not problems:
        problems.append(f"{folder}: holds no contracts; add <event_type>/v1.avsc")
    if problems:
        lines = [" ".join(problem.split()) for problem in problems]
        raise ContractError(lines[0] if len(lines) == 1 else with_list(f"{folder}: {len(lines)} problems:", lines), lines)
    return Contracts(by_version)


def _entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _load_versions(folder: Path, problems: list[str]) -> list[Contract]:
    """The sound contracts of one event type in order; adds what is wrong with the others to `problems`."""
    paths: dict[int, Path] = {}
    for entry in _entries(folder):
        match = _FILE_NAME.fullmatch(entry.name)
        if match and entry.is_file():
            paths[int(match[1])] = entry
        else:
            problems.append(f"{entry}: does not belong here; versions are named v1.avsc, v2.avsc and so on")
    if not paths:
        problems.append(f"{folder}: holds no version; add v1.avsc")
    sound: dict[Contract, str] = {}
    for version, path in sorted(paths.items()):
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            problems.append(f"{path}: can't be read: {error}")
            continue
        raw, found_problems = parse_problems(text)
        if not found_problems:
            found_problems = schema_problems(raw, folder.name)
        if not found_problems:
            contract = Contract(folder.name, version, cast(dict[str, Any], parse_schema(raw)), path)
            earlier = [(older.version, older_text) for older, older_text in sound.items()]
            found_problems = incompatibilities(text, earlier)
            sound[contract] = text
        problems += (f"{path}: {problem}" for problem in found_problems)
    return list(sound)
