"""A trained APNet by the name of its folder."""

from __future__ import annotations

from pathlib import Path

from earwitness.classifier import AudioClassifier
from earwitness.errors import CheckpointError
from earwitness.fitting import load_trained
from earwitness.registry import registry
from earwitness_plugins.apnet.explainer import APNet
from earwitness_plugins.apnet.published import load_converted


def apnet(*, weights: str) -> AudioClassifier:
    """A trained APNet as a classifier, for every other explainer and for the benchmark.

    Parameters
    ----------
    weights : str
        The folder that ``earwitness fit apnet`` left, or the file that ``earwitness convert-apnet`` wrote.

    Raises
    ------
    CheckpointError
        It is missing, half-written or damaged, or holds something else.
    """
    if Path(weights).is_file():
        return load_converted(Path(weights))
    trained = load_trained(registry(), Path(weights))
    if not isinstance(trained, APNet):
        raise CheckpointError(f"{weights} holds a {type(trained).__name__}, not an APNet.")
    return trained.as_classifier()
