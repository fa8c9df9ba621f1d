"""A trained APNet by the name of its folder."""

from __future__ import annotations

from pathlib import Path

from earwitness.classifier import AudioClassifier
from earwitness.registry import registry
from earwitness_plugins.apnet.published import load_converted
from earwitness_plugins.apnet.workshop import load_apnet


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
    return load_apnet(Path(weights), registry()).as_classifier()
