"""Checks contracts: `python -m schemas.registry.check [DIR]`. Exits with 1, every problem on standard
error, when one can't be used.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from schemas.registry.contracts import DEFAULT_FOLDER, ContractError, load_contracts


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a line for each event type with its versions, and returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m schemas.registry.check", description="Checks the contracts in a folder.")
    parser.add_argument("folder", metavar="DIR", nargs="?", type=Path, default=DEFAULT_FOLDER, help="default: the package's")
    folder = parser.parse_args(arguments).folder
    try:
        contracts = load_contracts(folder)
    except ContractError as error:
        print(error, file=sys.stderr)
        return 1
    for event_type in contracts.types:
        print(event_type, *(f"v{contract.version}" for contract in contracts.versions(event_type)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
