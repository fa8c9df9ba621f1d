"""From names to things: classifiers, explainers and data sets, with their parameters."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from earwitness.classifier import AudioClassifier, Precision
from earwitness.clips import Dataset
from earwitness.device import usable_device
from earwitness.errors import ClassifierError, ConfigurationError, DatasetError, PluginError
from earwitness.fitting import fitted_identity, load_fitted, load_trained
from earwitness.parameters import build
from earwitness.protocols import Explainer
from earwitness.registry import Registry, registry
from earwitness.specs import ClassifierSpec


def load_classifier(
    name: str = "esc10-cnn",
    *,
    parameters: Mapping[str, Any] | None = None,
    device: torch.device | str = "cpu",
    precision: Precision = "float32",
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
    precision : {"float32", "bfloat16"}
        Of the network; see :meth:`AudioClassifier.at_precision`.
    plugins : Registry, optional
        Default: the installed plugins.

    Returns
    -------
    AudioClassifier
        On the device, tried on noise and prepared (see :meth:`AudioClassifier.prepare`).

    Raises
    ------
    PluginError
        There is no such classifier or factory.
    ClassifierError
        The factory returns something else, or the network returns probabilities or the wrong number of outputs, or
        does not run.
    ConfigurationError
        The factory has no such parameter, or there is no such device or precision.
    """
    plugins = plugins or registry()
    if ":" in name and not plugins.named("classifiers", name):
        spec = ClassifierSpec(name="factory", target=name, summary="")
    else:
        spec = plugins.classifier(name).spec
    classifier = build(spec, parameters or {})
    if not isinstance(classifier, AudioClassifier):
        raise ClassifierError(
            f"{name} returned {type(classifier).__name__}; a classifier factory returns an earwitness.AudioClassifier."
        )
    return _ready(classifier, device, precision)


def load_self_explaining(
    name: str,
    checkpoint: str | os.PathLike[str],
    *,
    parameters: Mapping[str, Any] | None = None,
    device: torch.device | str = "cpu",
    precision: Precision = "float32",
    plugins: Registry | None = None,
) -> tuple[AudioClassifier, Explainer]:
    """A classifier that explains itself, from the folder that its training left, and its explainer.

    Parameters
    ----------
    name : str
        Of the explainer, of scope ``by-design``.
    checkpoint : path
        See :func:`earwitness.fitting.train`.
    parameters : dict, optional
        Refused: the folder brings its own.
    device, precision, plugins
        See :func:`load_classifier`.

    Raises
    ------
    PluginError
        There is no such explainer.
    ConfigurationError
        The folder is another method's, parameters were given, or there is no such device or precision.
    CheckpointError
        The folder is missing, half-written or damaged.
    """
    plugins = plugins or registry()
    _check_held(plugins, name, checkpoint, parameters)
    trained = load_trained(plugins, Path(checkpoint))
    return _ready(trained.as_classifier(), device, precision), trained


def _ready(classifier: AudioClassifier, device: torch.device | str, precision: Precision) -> AudioClassifier:
    moved = classifier.to(usable_device(device))
    try:
        return moved.prepare().at_precision(precision)
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise ClassifierError(
            f"{classifier.name} does not run on noise ({type(error).__name__}: {error}). Does its network fit its "
            "front end? If it takes one length only, give duration_s."
        ) from error


def _check_held(
    plugins: Registry, name: str, checkpoint: str | os.PathLike[str], parameters: Mapping[str, Any] | None
) -> None:
    if parameters:
        raise ConfigurationError(f"{checkpoint} brings its own parameters; leave out {sorted(parameters)}.")
    held, wanted = fitted_identity(Path(checkpoint))["explainer"], plugins.explainer(name).qualified_name
    if held != wanted:
        raise ConfigurationError(f"{checkpoint} holds a fitted {held}, not {wanted}.")


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
        if classifier is None:
            raise ConfigurationError(f"Give the classifier that {checkpoint} was fitted to.")
        _check_held(plugins, name, checkpoint, parameters)
        return load_fitted(plugins, Path(checkpoint), classifier)
    explainer: Any = build(offer.spec, parameters or {})
    if not isinstance(explainer, Explainer):
        raise PluginError(f"{offer.qualified_name} has no method `explain`; see earwitness.protocols.Explainer.")
    return explainer


def load_dataset(name: str, *, parameters: Mapping[str, Any] | None = None, plugins: Registry | None = None) -> Dataset:
    """A data set by name.

    Parameters
    ----------
    name : str
        See ``earwitness list datasets``.
    parameters : dict, optional
    plugins : Registry, optional

    Returns
    -------
    Dataset

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
