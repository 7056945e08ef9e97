"""Fixtures for all tests."""

from __future__ import annotations

pytest_plugins = ["tests.support.pubsub", "tests.support.delivery", "tests.support.prism", "tests.support.stores"]
