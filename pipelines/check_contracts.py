"""Check the contracts of a folder: valid, fit for BigQuery, and compatible with their earlier versions.

Exit status: 0 if all contracts can be used; 1 if some have problems, which are printed to standard error; 2 if the folder
does not exist.
"""

from __future__ import annotations

if __name__ == "__main__":
    from cli.interrupts import end_in_one_line

    end_in_one_line()

import sys
from collections.abc import Sequence
from pathlib import Path

from cli.command import CommandParser, exit_status_of
from schemas.registry.contracts import DEFAULT_FOLDER, ContractError, load_contracts


def main(arguments: Sequence[str] | None = None) -> int:
    """Print each event type with its versions, one type per line, and return the exit status."""
    return exit_status_of(lambda: _check(arguments))


def _check(arguments: Sequence[str] | None) -> int:
    parser = CommandParser(prog="python -m pipelines.check_contracts", description=__doc__)
    parser.add_argument(
        "folder",
        metavar="DIR",
        nargs="?",
        type=Path,
        default=DEFAULT_FOLDER,
        help="folder with <event_type>/v<N>.avsc files (default: the contracts in this package)",
    )
    folder = parser.parse_args(arguments).folder
    try:
        contracts = load_contracts(folder)
    except ContractError as error:
        if not error.problems:
            raise
        print("\n".join(error.problems), file=sys.stderr)
        return 1
    for event_type in contracts.types:
        print(event_type, *(f"v{contract.version}" for contract in contracts.versions(event_type)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
