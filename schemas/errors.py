"""The base of all errors that end a command, and how messages state numbers and list several items.

    EventDeliveryError
    ├── ContractError         schemas.registry.contracts
    ├── StoreError            storage.objects.base
    │   ├── NotFound
    │   ├── Damaged
    │   ├── AlreadyExists
    │   └── Changed
    ├── ManifestError         storage.buckets.manifest
    ├── TableStoreError       storage.tables.base
    │   └── LoadError
    │       └── LoadJobFailed
    ├── PubSubError           transforms.pubsub.retry
    ├── PublisherError        publisher.errors
    ├── UserError             cli.command
    └── TemplateError         templates.render

Any other exception that ends a command is a bug, and keeps its stack trace. An exception that only steers the code is not in
this family: `Rejected`, for example, turns a message into a dead letter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

NAMED = 5
"""Items that a message lists where there are more."""


class EventDeliveryError(Exception):
    """Something that the user can correct.

    The message is one line that says what failed, on which object, why, and what to do. A short list of items may follow it,
    each on an indented line of its own.
    """

    exit_status: ClassVar[int] = 2
    """Exit status of the command that the error ends: 2, failed."""


def plural(number: int, singular: str, other: str | None = None) -> str:
    """Return the noun that fits the number, such as "id" or "ids". The default plural is the singular and an s."""
    return singular if number == 1 else other or f"{singular}s"


def first_few(items: Sequence[str], named: int = NAMED) -> list[str]:
    """Return the first `named` items and, if there are others, "and N more" as the last one."""
    more = len(items) - named
    return [*items[:named], f"and {more} more"] if more > 0 else list(items)


def with_list(head: str, items: Sequence[str], named: int = NAMED) -> str:
    """Return `head` and, below it, the first few items, one on each line."""
    return "\n  ".join([head, *first_few(items, named)])
