"""The names that `import publisher` exports, and the libraries that it imports late."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import publisher
from publisher.client import EventPublisher

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", publisher.__all__)
def test_getattr__exported_name(name: str) -> None:
    assert getattr(publisher, name).__name__ == name


def test_getattr__same_class() -> None:
    assert publisher.EventPublisher is EventPublisher


def test_getattr__unknown_name() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Publisher'"):
        _ = publisher.Publisher


def test_import__no_library() -> None:
    """The package is imported before `python -m publisher` can handle Ctrl-C, so it must be light."""
    code = "import sys, publisher; print({'google.cloud.pubsub_v1', 'grpc', 'fastavro'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
