"""Prism, Beam's streaming runner for one machine, for tests of what only a stream does: early, on-time and late panes.

Beam would download it. A program of its own says whether there is a network, so it is found or built here instead.
"""

from __future__ import annotations

import pytest
from apache_beam import version
from apache_beam.options.pipeline_options import PipelineOptions

from tests.support.go_tools import find_or_build


@pytest.fixture(scope="session")
def prism_binary() -> str:
    """Where Prism is. Skips where it can't be had."""
    binary, reason = find_or_build("prism", f"github.com/apache/beam/sdks/v2/go/cmd/prism@v{version.__version__}")
    if not binary:
        pytest.skip(reason)
    return binary


@pytest.fixture(scope="session")
def prism_options(prism_binary: str) -> PipelineOptions:
    """Options that run a pipeline on Prism, its Python in this process. Skips where Prism can't be had."""
    return PipelineOptions(
        ["--runner=PrismRunner", f"--prism_location={prism_binary}", "--environment_type=LOOPBACK", "--streaming"]
    )
