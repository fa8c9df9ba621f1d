"""Where networks run."""

from __future__ import annotations

import torch

from earwitness.errors import ConfigurationError


def usable_device(device: torch.device | str) -> torch.device:
    """A device by its name.

    Parameters
    ----------
    device : torch.device or str
        As PyTorch names it, such as ``"cuda:0"``.

    Raises
    ------
    ConfigurationError
        There is none of that name, or it cannot be used.
    """
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was compiled with CUDA
        raise ConfigurationError(f"The device {str(device)!r} cannot be used: {error}") from error
    return torch.device(device)
