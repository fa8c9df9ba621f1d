"""Keeps what a plugin does to the process, or to what it was shown, from reaching the next one."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor


@contextmanager
def isolated(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Run a plugin with global random generators of its own, with gradients on, and with float32 as torch's default.

    Code that draws from torch's, NumPy's or Python's global generator draws the same whatever ran before it, in any
    order of work and after any restart. Their states, torch's gradient mode, default type and number of threads are put
    back afterwards.

    Parameters
    ----------
    seed : int
        Any.
    device : torch.device or str
        Where the plugin computes: the generator of that device is kept too.
    """
    place = torch.device(device)
    numpy_state, python_state = np.random.get_state(), random.getstate()
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    with torch.random.fork_rng([place] if place.type == "cuda" else []), torch.enable_grad():
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)
            torch.set_default_dtype(dtype)
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)


class Seal:
    """Notices that tensors were written to.

    torch counts what is done to a tensor in place. What goes round that count (``tensor.data``, NumPy) changes a sum
    over the bits; that a permutation does not, is the price of a seal that costs one reading of memory.

    Parameters
    ----------
    tensors : dict of str to Tensor
        By what they are called in a message.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = dict(tensors)
        self._state = {name: _state_of(tensor) for name, tensor in tensors.items()}

    def broken(self) -> list[str]:
        """The names of those that have changed since."""
        return [name for name, tensor in self._tensors.items() if _state_of(tensor) != self._state[name]]


def _state_of(tensor: Tensor) -> tuple[int, int]:
    bits = tensor.detach()
    if bits.element_size() == 4:
        bits = bits.view(torch.int32)
    elif bits.element_size() == 8 and not bits.is_complex():
        bits = bits.view(torch.int64)
    elif bits.is_complex():
        return _state_of(torch.view_as_real(bits))
    elif bits.element_size() == 2:
        bits = bits.view(torch.int16)
    changes = 0 if tensor.is_inference() else tensor._version
    return changes, int(bits.sum(dtype=torch.int64))
