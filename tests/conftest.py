"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of reference arrays; the test is skipped where there is none."""
    root = os.environ.get("EARWITNESS_GOLDEN")
    if not root:
        pytest.skip("EARWITNESS_GOLDEN is not set: no reference arrays to compare with.")
    return Path(root) / "golden"
