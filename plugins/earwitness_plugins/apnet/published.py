"""The authors' weights: from the layout of their Keras files to a state dict.

Keras keeps channels last and time before frequency; here channels come first and frequency before time. M prototypes,
T' frames, F' bands and C channels of the latent map, K classes.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from earwitness.artifacts import load_tensors, save_tensors
from earwitness.classifier import AudioClassifier
from earwitness.errors import CheckpointError, ClassifierError
from earwitness_plugins.apnet.configuration import named
from earwitness_plugins.apnet.network import AudioPrototypeNetwork
from earwitness_plugins.apnet.trained import classifier_of

_CONVOLUTIONS = {
    **{f"encoder/conv{number}": f"encoder.conv{number}" for number in (1, 2, 3)},
    **{f"decoder/deconv{number}": f"decoder.deconv{number}" for number in (1, 2, 3)},
}
_KERNELS = {
    "prototype_distances/kernel": ("prototypes", (0, 3, 2, 1)),  # (M, T', F', C) -> (M, C, F', T')
    "mean/kernel": ("frequency_weights", (0, 1)),
    "logits/kernel": ("class_weights", (0, 1)),
}


def state_of_published(arrays: Mapping[str, NDArray[np.generic]]) -> dict[str, Tensor]:
    """The authors' weights as a state dict of :class:`AudioPrototypeNetwork`.

    Parameters
    ----------
    arrays : dict of str to array
        By the path of their HDF5 file, without its repetitions: ``encoder/conv1/kernel`` (5, 5, in, out) with ``bias``,
        likewise ``conv2`` and ``conv3``; ``decoder/deconv1/kernel`` (5, 5, out, in) with ``bias``, likewise ``deconv2``
        and ``deconv3``; ``prototype_distances/kernel`` (M, T', F', C), ``mean/kernel`` (M, F'), ``logits/kernel``
        (M, K). A suffix ``:0`` is ignored.

    Returns
    -------
    dict of str to Tensor, float32

    Raises
    ------
    CheckpointError
        An array is missing or unknown.
    ClassifierError
        Shapes do not fit together, or a weight is not finite.
    """
    given = {name.removesuffix(":0"): np.asarray(array) for name, array in arrays.items()}
    wanted = {f"{layer}/{kind}" for layer in _CONVOLUTIONS for kind in ("kernel", "bias")} | set(_KERNELS)
    missing, unknown = sorted(wanted - given.keys()), sorted(given.keys() - wanted)
    if missing or unknown:
        raise CheckpointError(
            f"These are not the weights of a published APNet: missing {missing or 'nothing'}, unknown "
            f"{unknown or 'nothing'}."
        )
    state = {}
    for layer, name in _CONVOLUTIONS.items():
        # Both kinds of kernel: (time, frequency, a, b) -> (b, a, frequency, time).
        state[f"{name}.weight"] = _tensor(given[f"{layer}/kernel"], (3, 2, 1, 0))
        state[f"{name}.bias"] = _tensor(given[f"{layer}/bias"], (0,))
    for kernel, (name, order) in _KERNELS.items():
        state[name] = _tensor(given[kernel], order)
    AudioPrototypeNetwork.of_state(state)  # whatever does not fit together is found here
    return state


def arrays_of_state(state: Mapping[str, Tensor]) -> dict[str, NDArray[np.generic]]:
    """The inverse of :func:`state_of_published`: arrays that the authors' code can load."""
    arrays: dict[str, NDArray[np.generic]] = {}
    for layer, name in _CONVOLUTIONS.items():
        arrays[f"{layer}/kernel"] = state[f"{name}.weight"].permute(3, 2, 1, 0).contiguous().numpy()
        arrays[f"{layer}/bias"] = state[f"{name}.bias"].numpy()
    for kernel, (name, order) in _KERNELS.items():
        arrays[kernel] = state[name].permute(order).contiguous().numpy()  # each order is its own inverse
    return arrays


def convert(
    arrays: Path, out: Path, *, labels: Sequence[str], scaler: tuple[float, float], configuration: str
) -> dict[str, Tensor]:
    """Write the authors' weights, and what belongs to them, to one safetensors file; see :func:`load_converted`.

    Parameters
    ----------
    arrays : Path
        NPZ file of the arrays of :func:`state_of_published`.
    out : Path
    labels : sequence of str, length K
    scaler : (float, float)
        Minimum and maximum in dB.
    configuration : str
        Name of the published one.

    Returns
    -------
    dict of str to Tensor
        The state dict.

    Raises
    ------
    CheckpointError
        The file is missing or no NPZ file, or see :func:`state_of_published`.
    ClassifierError, ConfigurationError
        Weights, labels, scaler and configuration do not belong together.
    """
    try:
        with np.load(arrays, allow_pickle=False) as file:
            state = state_of_published(dict(file))
    except (OSError, ValueError, TypeError, zipfile.BadZipFile) as error:  # an NPY file is an array, and no context
        raise CheckpointError(
            f"{arrays} is not a readable NPZ file of plain arrays. Write one with numpy.savez."
        ) from error
    document = {"labels": list(labels), "scaler": list(scaler), "configuration": configuration}
    _classifier(state, document)
    save_tensors(out, state, {"apnet": document})
    return state


def load_converted(path: Path) -> AudioClassifier:
    """The classifier that :func:`convert` wrote.

    Raises
    ------
    CheckpointError
        The file is missing or damaged, or holds something else.
    ClassifierError, ConfigurationError
        Its parts do not belong together.
    """
    state, document = load_tensors(path)
    if "apnet" not in document:
        raise CheckpointError(f"{path} holds no converted APNet. Make one with: earwitness convert-apnet")
    return _classifier(state, document["apnet"])


def _classifier(state: Mapping[str, Tensor], document: Mapping[str, Any]) -> AudioClassifier:
    configuration, _ = named(document["configuration"])
    network, labels = AudioPrototypeNetwork.of_state(state), document["labels"]
    sizes, wanted = network.sizes, (configuration.n_mels, configuration.n_frames)
    if (sizes.n_bands, sizes.n_frames) != wanted or sizes.n_classes != len(labels):
        raise ClassifierError(
            f"Weights for {sizes.n_bands} bands x {sizes.n_frames} frames and {sizes.n_classes} classes do not fit "
            f"{document['configuration']} ({wanted[0]} x {wanted[1]}) and {len(labels)} labels."
        )
    return classifier_of(network, configuration, document["scaler"], labels)


def _tensor(array: NDArray[np.generic], order: tuple[int, ...]) -> Tensor:
    if array.ndim != len(order):
        raise CheckpointError(f"Expected an array of {len(order)} axes, got the shape {array.shape}.")
    return torch.from_numpy(np.ascontiguousarray(array.transpose(order), dtype=np.float32))
