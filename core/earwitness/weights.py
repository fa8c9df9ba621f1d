"""Loading weights into a network without running anybody's code."""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from earwitness.artifacts import is_safetensors, load_tensors
from earwitness.errors import CheckpointError, ClassifierError


def read_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read a state dict from a safetensors file, or from a PyTorch file of nothing but tensors.

    What the file is, its content says, not its name.

    Parameters
    ----------
    path : path

    Returns
    -------
    dict of str to Tensor
        On the CPU.

    Raises
    ------
    CheckpointError
        Missing, damaged, or a pickle that holds more than tensors; it is not executed.
    """
    file = Path(path)
    if not file.is_file():
        raise CheckpointError(f"There is no weights file {file}.")
    if file.suffix == ".safetensors" or is_safetensors(file):
        return load_tensors(file)[0]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is wrong with a foreign pickle is said below, in one sentence
            state = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{file} is damaged, or a pickle that holds more than tensors. It was not executed, because a pickle can "
            "run code. Save the state dict alone: safetensors.torch.save_file(model.state_dict(), …)."
        ) from error
    except Exception as error:
        raise CheckpointError(f"{file} is not a readable weights file: {type(error).__name__}.") from error
    if not isinstance(state, Mapping):
        raise CheckpointError(f"{file} does not hold a state dict (names to tensors), but a {type(state).__name__}.")
    others = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if others:
        raise CheckpointError(
            f"{file} does not hold a state dict alone: {others[0]!r} is a {type(state[others[0]]).__name__}, not a "
            "tensor. Save model.state_dict() and nothing else."
        )
    return {str(name): value for name, value in state.items()}


def load_weights(network: nn.Module, path: str | os.PathLike[str]) -> nn.Module:
    """Load weights strictly: every tensor fits, none is missing, none is left over.

    Parameters
    ----------
    network : nn.Module
        Changed in place; as it was, where an error is raised.
    path : path
        See :func:`read_weights`.

    Returns
    -------
    nn.Module
        The network.

    Raises
    ------
    CheckpointError
        See :func:`read_weights`.
    ClassifierError
        The weights belong to another network.
    """
    state, own = read_weights(path), network.state_dict()
    missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    misfits = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
        for name in sorted(own.keys() & state.keys())
        if state[name].shape != own[name].shape
    ]
    if missing or unknown or misfits:
        problems = [
            f"{len(names)} {what} (such as {names[0]})"
            for what, names in (
                ("tensors missing", missing),
                ("unknown tensors", unknown),
                ("tensors of another shape", misfits),
            )
            if names
        ]
        raise ClassifierError(
            f"{path} holds the weights of another network than {type(network).__name__}: {', '.join(problems)}."
        )
    network.load_state_dict(state)
    return network
