"""The Python API in few words: what the commands do, as functions."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from earwitness.classifier import AudioClassifier
from earwitness.loading import load_classifier, load_dataset, load_explainer, load_self_explaining
from earwitness.output_folder import folders_of
from earwitness.protocols import Explainer
from earwitness.recordings import ExplainedRecording, Settings, explain_recording
from earwitness.registry import KINDS, registry

__all__ = ["explain", "list_names", "load_classifier", "load_dataset", "load_explainer"]


def explain(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    classifier: AudioClassifier | str | None = None,
    explainer: str = "integrated-gradients",
    parameters: Mapping[str, Any] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    settings: Settings | None = None,
) -> ExplainedRecording:
    """Why did the classifier say that? See it, hear it, and know whether to believe it.

    Parameters
    ----------
    path : path
        A sound file.
    out : path, optional
        Folder for sounds, picture and numbers. Default: ``earwitness-out/NAME`` in the current folder, or ``NAME-2``, …
        where another recording of that name is explained there.
    classifier : AudioClassifier or str, optional
        Your own, or one by name. Default: the packaged ``"esc10-cnn"``, or the fitted explainer itself where that is a
        classifier (scope ``by-design``).
    explainer : str
        See ``earwitness list explainers``.
    parameters : dict, optional
        Of the explainer.
    checkpoint : path, optional
        Folder of a fitted explainer.
    settings : Settings, optional
        Class to explain, rule, scale, route, seed, windows.

    Returns
    -------
    ExplainedRecording

    Examples
    --------
    >>> result = explain("dog.wav", "out")  # doctest: +SKIP
    >>> print(result.verdict)  # doctest: +SKIP
    """
    method: Explainer
    if classifier is None and checkpoint is not None and registry().explainer(explainer).spec.scope == "by-design":
        chosen, method = load_self_explaining(explainer, checkpoint, parameters=parameters)
    else:
        chosen = classifier if isinstance(classifier, AudioClassifier) else load_classifier(classifier or "esc10-cnn")
        method = load_explainer(explainer, parameters=parameters, checkpoint=checkpoint, classifier=chosen)
    folder = out if out is not None else folders_of([Path(path)], Path("earwitness-out"))[0]
    return explain_recording(
        path, folder, classifier=chosen, explainer=method, explainer_name=explainer, settings=settings
    )


def list_names(kind: str) -> list[str]:
    """Names on offer of a kind: ``explainers``, ``metrics``, ``classifiers``, ``datasets`` or ``commands``."""
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {sorted(KINDS)}, got {kind!r}")
    return sorted({offer.spec.name for offer in registry().offers(kind)})
