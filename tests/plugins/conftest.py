"""Fixtures shared by tests of plugins."""

from __future__ import annotations

from pathlib import Path

import pytest

from apnet_toy import train_apnet
from earwitness_plugins.apnet.explainer import APNet


@pytest.fixture(scope="session")
def apnet_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained toy, to be read: who changes it takes a copy."""
    path = tmp_path_factory.mktemp("apnet") / "net"
    train_apnet(path)
    return path


@pytest.fixture(scope="session")
def apnet(apnet_folder: Path) -> APNet:
    """The same, loaded."""
    return train_apnet(apnet_folder)  # found, not trained again
