"""Devices by name."""

from __future__ import annotations

import pytest
import torch

from earwitness.device import usable_device
from earwitness.errors import ConfigurationError


def test_a_device_that_is_there_is_found_by_its_name() -> None:
    assert usable_device("cpu") == usable_device(torch.device("cpu")) == torch.device("cpu")


@pytest.mark.parametrize("name", ["gramophone", "", "cuda:99"])
def test_a_device_that_is_not_there_is_refused_by_its_name(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"The device '{name}' cannot be used: "):
        usable_device(name)
