"""The family of errors: its tree, and messages that list items."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator
from importlib import import_module

import pytest

from schemas import errors
from schemas.errors import EventDeliveryError, first_few, plural, with_list

MEMBERS = re.findall(r"(\w+)  +([a-z_.]+)$", errors.__doc__ or "", re.MULTILINE)


def family(kind: type[EventDeliveryError]) -> Iterator[type[EventDeliveryError]]:
    for derived in kind.__subclasses__():
        yield derived
        yield from family(derived)


def test_the_tree_in_the_docstring_is_the_family() -> None:
    for _, module in MEMBERS:
        import_module(module)
    drawn = set(re.findall(r"── (\w+)", errors.__doc__ or ""))
    assert {kind.__name__ for kind in family(EventDeliveryError)} == drawn
    assert len(MEMBERS) == 8


@pytest.mark.parametrize(("name", "module"), MEMBERS)
def test_error__is_one_of_the_family(name: str, module: str) -> None:
    kind = getattr(import_module(module), name)
    assert kind.__base__ is EventDeliveryError
    copy = pickle.loads(pickle.dumps(kind("a: broken. Restore it.")))
    assert (type(copy), str(copy), copy.exit_status) == (kind, "a: broken. Restore it.", 2)


@pytest.mark.parametrize(
    ("items", "shown"),
    [
        ([], []),
        (list("abcde"), list("abcde")),
        (list("abcdef"), [*"abcde", "and 1 more"]),
        (list("abcdefgh"), [*"abcde", "and 3 more"]),
    ],
)
def test_first_few__says_how_many_more_there_are(items: list[str], shown: list[str]) -> None:
    assert first_few(items) == shown


def test_with_list__puts_each_item_on_a_line() -> None:
    assert with_list("not read:", ["a", "b", "c"], 2) == "not read:\n  a\n  b\n  and 1 more"


def test_plural__one_and_others() -> None:
    assert [plural(number, "id") for number in (0, 1, 2)] == ["ids", "id", "ids"]
    assert [plural(number, "id was", "ids were") for number in (0, 1, 2)] == ["ids were", "id was", "ids were"]
