"""From names to things: classifiers, explainers and data sets, with their parameters."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from earwitness.classifier import AudioClassifier
from earwitness.clips import Dataset
from earwitness.errors import ClassifierError, ConfigurationError, DatasetError, PluginError
from earwitness.fitting import load_fitted
from earwitness.parameters import build
from earwitness.protocols import Explainer
from earwitness.registry import Registry, registry
from earwitness.specs import ClassifierSpec


def load_classifier(
    name: str = "esc10-cnn",
    *,
    parameters: Mapping[str, Any] | None = None,
    device: torch.device | str = "cpu",
    plugins: Registry | None = None,
) -> AudioClassifier:
    """A classifier by name, or by any factory ``package.module:function`` that returns an ``AudioClassifier``.

    Parameters
    ----------
    name : str
        See ``earwitness list classifiers``; the packaged one by default.
    parameters : dict, optional
        Passed to the factory.
    device : torch.device or str
    plugins : Registry, optional
        Default: the installed plugins.

    Returns
    -------
    AudioClassifier
        Tried on one second of noise, so that a wrong network is found here and not in the middle of a run.

    Raises
    ------
    PluginError
        There is no such classifier or factory.
    ClassifierError
        The factory returns something else, or the network returns probabilities or the wrong number of outputs.
    """
    plugins = plugins or registry()
    offered = {n for offer in plugins.offers("classifiers") for n in (offer.spec.name, offer.qualified_name)}
    if ":" in name and name not in offered:
        spec = ClassifierSpec(name="factory", target=name, summary="")
    else:
        spec = plugins.classifier(name).spec
    classifier = build(spec, parameters or {})
    if not isinstance(classifier, AudioClassifier):
        raise ClassifierError(
            f"{name} returned {type(classifier).__name__}; a classifier factory returns an earwitness.AudioClassifier."
        )
    duration_s = classifier.duration_s or max(1.0, classifier.min_samples / classifier.rate)
    probe = torch.randn(1, round(duration_s * classifier.rate), generator=torch.Generator().manual_seed(0)) * 0.1
    classifier.probabilities(probe)
    return classifier.to(device).prepare() if str(device) != "cpu" else classifier.prepare()


def load_explainer(
    name: str,
    *,
    parameters: Mapping[str, Any] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    classifier: AudioClassifier | None = None,
    plugins: Registry | None = None,
) -> Explainer:
    """An explainer by name, or a fitted one from its folder.

    Parameters
    ----------
    name : str
        See ``earwitness list explainers``.
    parameters : dict, optional
    checkpoint : path, optional
        Folder of a fitted explainer; its own parameters are used.
    classifier : AudioClassifier, optional
        Needed with ``checkpoint``: it is checked that the explainer was fitted to this one.
    plugins : Registry, optional

    Raises
    ------
    PluginError
        There is no such explainer, or it does not follow the protocol.
    ConfigurationError
        It has no such parameter, or the checkpoint is another method's.
    """
    plugins = plugins or registry()
    offer = plugins.explainer(name)
    if checkpoint is not None:
        if classifier is None or parameters:
            raise ConfigurationError("A checkpoint is loaded with its classifier, and brings its own parameters.")
        explainer: Any = load_fitted(plugins, Path(checkpoint), classifier)
        if not isinstance(explainer, offer.spec.load()):
            raise ConfigurationError(f"{checkpoint} holds a fitted {type(explainer).__name__}, not {name!r}.")
        return explainer  # type: ignore[no-any-return]
    explainer = build(offer.spec, parameters or {})
    if not isinstance(explainer, Explainer):
        raise PluginError(f"{offer.qualified_name} has no method `explain`; see earwitness.protocols.Explainer.")
    return explainer


def load_dataset(name: str, *, parameters: Mapping[str, Any] | None = None, plugins: Registry | None = None) -> Dataset:
    """A data set by name.

    Raises
    ------
    PluginError, ConfigurationError
        There is no such data set or parameter.
    DatasetError
        Its files are not there, or it has no clips.
    """
    plugins = plugins or registry()
    dataset = build(plugins.dataset(name).spec, parameters or {})
    if not isinstance(dataset, Dataset):
        raise PluginError(f"Data set {name!r} does not follow the protocol earwitness.clips.Dataset.")
    if not len(dataset):
        raise DatasetError(f"Data set {name!r} with {dict(parameters or {})} has no clips.")
    return dataset
