"""Classifiers that come with the package, weights included."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from earwitness.audio.front_end import FrontEnd
from earwitness.classifier import AudioClassifier
from earwitness.weights import load_weights
from earwitness_plugins.classifiers.architectures import ARCHITECTURES

WEIGHTS = Path(__file__).parent / "weights"
"""Where the packaged weights lie; each has the report of its training beside it."""


def esc10_cnn(*, weights: str | None = None) -> AudioClassifier:
    """A compact CNN for the ten classes of ESC-10, trained on folds 1 to 3 and selected on fold 4; any length.

    Parameters
    ----------
    weights : str, optional
        Weights of your own for the same network (``earwitness train-classifier esc10-cnn``), safetensors.
    """
    return _build("esc10-cnn", weights)


def toy_cnn(*, weights: str | None = None) -> AudioClassifier:
    """The DRSA thesis' small CNN for its synthetic data; one second at 16 kHz.

    Parameters
    ----------
    weights : str, optional
        Weights of your own for the same network (``earwitness train-classifier toy-cnn``), safetensors.
    """
    return _build("toy-cnn", weights)


def _build(name: str, weights: str | None) -> AudioClassifier:
    architecture = ARCHITECTURES[name]
    network: nn.Module = architecture.network()
    front_end: FrontEnd = architecture.front_end()
    load_weights(network, weights or WEIGHTS / f"{name}.safetensors")
    return AudioClassifier(
        network,
        front_end=front_end,
        labels=architecture.labels,
        duration_s=architecture.duration_s,
        name=name,
    )
