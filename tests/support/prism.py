"""Prism, Beam's streaming runner for one machine, for tests of early, on-time and late panes.

Beam would download it itself. Here it is found or built with Go instead: without a network Go fails and the test is skipped.
"""

from __future__ import annotations

import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from tests.support.go_tools import PRISM, find_or_build


@pytest.fixture(scope="session")
def prism_binary() -> str:
    """Return the path of Prism. Skips the test if Prism can be neither found nor built."""
    binary, reason = find_or_build(PRISM)
    if not binary:
        pytest.skip(reason)
    return binary


@pytest.fixture(scope="session")
def prism_options(prism_binary: str) -> PipelineOptions:
    """Options that run a pipeline on Prism with its Python code in this process. Skips the test without Prism."""
    return PipelineOptions(
        ["--runner=PrismRunner", f"--prism_location={prism_binary}", "--environment_type=LOOPBACK", "--streaming"]
    )
