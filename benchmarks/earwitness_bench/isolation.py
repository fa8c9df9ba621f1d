"""Keeps what a plugin does to the process from reaching the next one."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def isolated(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Run a plugin with global random generators of its own, and with gradients on.

    Code that draws from torch's, NumPy's or Python's global generator draws the same whatever ran before it, in any
    order of work and after any restart. Their states, and torch's gradient mode, are put back afterwards.

    Parameters
    ----------
    seed : int
        Any.
    device : torch.device or str
        Where the plugin computes: the generator of that device is kept too.
    """
    place = torch.device(device)
    numpy_state, python_state = np.random.get_state(), random.getstate()
    with torch.random.fork_rng([place] if place.type == "cuda" else []), torch.enable_grad():
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)
