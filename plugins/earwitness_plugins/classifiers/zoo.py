"""Classifiers by name. Those that the project trained bring their weights; those of others are fetched when used."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from earwitness.audio.front_end import FrontEnd
from earwitness.classifier import AudioClassifier
from earwitness.errors import ConfigurationError
from earwitness.weights import load_weights
from earwitness_plugins.classifiers.architectures import ARCHITECTURES
from earwitness_plugins.classifiers.linear_head import classifier_with_head
from earwitness_plugins.classifiers.pretrained import tagger

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


def toy_wave_cnn(*, weights: str | None = None) -> AudioClassifier:
    """A small CNN on the samples themselves, for the same synthetic data; one second at 16 kHz.

    Parameters
    ----------
    weights : str, optional
        Weights of your own for the same network (``earwitness train-classifier toy-wave-cnn``), safetensors.
    """
    return _build("toy-wave-cnn", weights)


def sb_cnn(*, weights: str | None = None) -> AudioClassifier:
    """SB-CNN, to compare with; it brings no weights.

    Parameters
    ----------
    weights : str
        Of ``earwitness train-classifier sb-cnn``, safetensors.
    """
    return _build("sb-cnn", weights)


def att_crnn(*, weights: str | None = None) -> AudioClassifier:
    """Att-CRNN, to compare with; it brings no weights.

    Parameters
    ----------
    weights : str
        Of ``earwitness train-classifier att-crnn``, safetensors.
    """
    return _build("att-crnn", weights)


def yamnet(*, regroup: str | None = None) -> AudioClassifier:
    """YAMNet, Google's tagger of 521 classes of AudioSet (MobileNetV1; weights Apache-2.0); at least one second.

    Nobody serves the weights as a PyTorch state dict: put ``yamnet_521.pt`` into the folder that ``EARWITNESS_MODELS``
    names, or into earwitness' cache. Its SHA-256 is checked.

    Parameters
    ----------
    regroup : {"esc10"}, optional
        Answer with the ten classes of ESC-10, each the best of AudioSet's classes that belong to it, without training.
    """
    return tagger("yamnet", regroup)


def efficientat_mn04(*, regroup: str | None = None) -> AudioClassifier:
    """EfficientAT mn04_as, a tagger of the 527 classes of AudioSet (MobileNetV3 of width 0.4; weights MIT); any length.

    The weights (4 MB) are fetched from their publisher when first used, checked by SHA-256, and kept in the folder that
    ``EARWITNESS_MODELS`` names, or in earwitness' cache.

    Parameters
    ----------
    regroup : {"esc10"}, optional
        See :func:`yamnet`.
    """
    return tagger("efficientat-mn04", regroup)


def yamnet_esc10(*, weights: str | None = None) -> AudioClassifier:
    """The ten classes of ESC-10 by a linear layer on YAMNet's embedding; trained on folds 1 to 3, selected on fold 4.

    For YAMNet's own weights, see :func:`yamnet`.

    Parameters
    ----------
    weights : str, optional
        A head of your own, for any classes (``earwitness train-head yamnet``), safetensors.
    """
    return _with_head("yamnet", weights)


def efficientat_mn04_esc10(*, weights: str | None = None) -> AudioClassifier:
    """The ten classes of ESC-10 by a linear layer on mn04's embedding; trained on folds 1 to 3, selected on fold 4.

    For mn04's own weights, see :func:`efficientat_mn04`.

    Parameters
    ----------
    weights : str, optional
        A head of your own, for any classes (``earwitness train-head efficientat-mn04``), safetensors.
    """
    return _with_head("efficientat-mn04", weights)


def efficientat_mn04_overlaps(*, weights: str | None = None) -> AudioClassifier:
    """Which of the ten classes of ESC-10 sound at once (multilabel), by a linear layer on mn04's embedding.

    Trained on overlaps of two and three recordings (the data set ``overlaps``) of folds 1 to 3, selected on fold 4. For
    mn04's own weights, see :func:`efficientat_mn04`.

    Parameters
    ----------
    weights : str, optional
        A head of your own (``earwitness train-head efficientat-mn04 --multilabel``), safetensors.
    """
    return _with_head("efficientat-mn04", weights, data="overlaps")


def _with_head(backbone: str, weights: str | None, data: str = "esc10") -> AudioClassifier:
    return classifier_with_head(backbone, Path(weights or WEIGHTS / f"{backbone}-{data}.safetensors"))


def _build(name: str, weights: str | None) -> AudioClassifier:
    architecture = ARCHITECTURES[name]
    packaged = WEIGHTS / f"{name}.safetensors"
    if weights is None and not packaged.exists():
        raise ConfigurationError(
            f"{name} brings no weights. Train it: earwitness train-classifier {name} --out FILE; then give "
            "weights=FILE (on the command line, --weights FILE)."
        )
    network: nn.Module = architecture.network()
    front_end: FrontEnd = architecture.front_end()
    load_weights(network, weights or packaged)
    return AudioClassifier(
        network,
        front_end=front_end,
        labels=architecture.labels,
        duration_s=architecture.duration_s,
        name=name,
    )
