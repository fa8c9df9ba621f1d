"""Fitting an explainer to a classifier: checkpoints, resume and one folder on disk, written once for all methods.

A classifier that explains itself is trained instead, by :func:`train`, and kept in the same way.

A fitted explainer is a folder with two files: ``explainer.safetensors`` (its tensors) and ``explainer.json`` (method,
parameters, classifier, classes, front end, data, and checksums of the tensors and of itself).
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from earwitness.artifacts import canonical_json, digest_of, load_tensors, save_tensors, write_json
from earwitness.classifier import AudioClassifier
from earwitness.clips import Dataset
from earwitness.device import usable_device
from earwitness.errors import CheckpointError, ConfigurationError
from earwitness.parameters import build, resolved_parameters
from earwitness.protocols import Fittable, Progress, SelfExplaining
from earwitness.registry import Offer, Registry
from earwitness.specs import ExplainerSpec

SCHEMA = 1
_TENSORS, _DOCUMENT, _CHECKPOINT = "explainer.safetensors", "explainer.json", "checkpoint.safetensors"


class Workspace:
    """Where a fit keeps its checkpoint.

    Parameters
    ----------
    folder : Path
    key : str
        Identity of the fit; a checkpoint of another fit is not taken up.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.folder = folder
        self.key = key

    def save_checkpoint(self, tensors: Mapping[str, Tensor], **settings: Any) -> None:
        """Keep tensors and plain values, atomically, in place of the last ones."""
        save_tensors(self.folder / _CHECKPOINT, tensors, {"key": self.key, **settings})

    def load_checkpoint(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """What was kept last, or None.

        Raises
        ------
        CheckpointError
            The checkpoint belongs to another fit, or is damaged.
        """
        path = self.folder / _CHECKPOINT
        if not path.exists():
            return None
        tensors, settings = load_tensors(path)
        if settings.pop("key", None) != self.key:
            raise CheckpointError(
                f"{path} belongs to another fit (other parameters, data, classifier or seed). "
                "Choose another --out, or remove it to start again."
            )
        return tensors, settings

    def clear(self) -> None:
        """Remove the checkpoint, and what a killed writer left of one."""
        for path in (self.folder / _CHECKPOINT, *self.folder.glob(f".{_CHECKPOINT}.*")):
            path.unlink(missing_ok=True)


def fit(
    registry: Registry,
    name: str,
    classifier: AudioClassifier,
    train: Dataset,
    folder: Path,
    *,
    validation: Dataset | None = None,
    parameters: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: Progress = lambda done, total, text: None,
) -> Fittable:
    """Fit an explainer and keep it in a folder. A fit that was killed goes on where its last checkpoint left it.

    Parameters
    ----------
    registry : Registry
    name : str
        Of the explainer.
    classifier : AudioClassifier
    train, validation : Dataset
    folder : Path
        Made if need be. A finished fit of the same settings is loaded instead of repeated.
    parameters : dict, optional
        Of the explainer.
    seed : int
    progress : callable (done, total, text)

    Returns
    -------
    Fittable

    Raises
    ------
    PluginError
        There is no such explainer.
    ConfigurationError
        The explainer has nothing to fit or no such parameter, or the training data have no clips or share no label
        with the classifier.
    CheckpointError
        The folder holds another fit, finished or not, or is damaged.
    """
    offer = registry.explainer(name)
    explainer = build(offer.spec, parameters or {})
    if isinstance(explainer, SelfExplaining):
        raise ConfigurationError(
            f"{name!r} is a classifier that explains itself: it is trained, not fitted to {classifier.name}. Train it "
            f"with `earwitness fit {name} --dataset … --out DIR`, then use it as the classifier {name!r} with the "
            "weights DIR."
        )
    if not isinstance(explainer, Fittable):
        raise ConfigurationError(f"{name!r} has nothing to fit; use it with `earwitness explain` at once.")
    _check_not_empty(name, train)
    labels = {label for entry in train.entries for label in entry.labels}
    if not labels & set(classifier.labels):
        raise ConfigurationError(
            f"The training data ({len(train)} clips, labels {sorted(labels)[:12]}) share no label with "
            f"{classifier.name} ({list(classifier.labels)[:12]})."
        )
    settings = {
        **_settings(offer, explainer, parameters or {}, train, validation, seed),
        "classifier": {"name": classifier.name, "checksum": classifier.checksum},
        "labels": list(classifier.labels),
        "front_end": classifier.front_end.describe(),
    }
    keep = _Keep(folder, settings)
    if (state := keep.finished()) is not None:
        return explainer.load_state(state)
    started = time.monotonic()
    explainer.fit(classifier, train, validation=validation, random=seed, workspace=keep.workspace, progress=progress)
    keep.write(explainer.state(), explainer, time.monotonic() - started)
    return explainer


def train(
    registry: Registry,
    name: str,
    train: Dataset,
    folder: Path,
    *,
    validation: Dataset | None = None,
    parameters: Mapping[str, Any] | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: Progress = lambda done, total, text: None,
) -> SelfExplaining:
    """Train a classifier that explains itself and keep it in a folder; one that was killed goes on as in :func:`fit`.

    Parameters
    ----------
    registry : Registry
    name : str
        Of the explainer, of scope ``by-design``.
    train, validation : Dataset
        Its classes are the labels of ``train``.
    folder : Path
        Made if need be. A finished training of the same settings is loaded instead of repeated.
    parameters : dict, optional
        Of the explainer.
    seed : int
    device : torch.device or str
    progress : callable (done, total, text)

    Returns
    -------
    SelfExplaining

    Raises
    ------
    PluginError
        There is no such explainer.
    ConfigurationError
        The explainer is no classifier or has no such parameter, the training data have no clips, or the device cannot
        be used.
    CheckpointError
        The folder holds another fit, finished or not, or is damaged.
    """
    offer = registry.explainer(name)
    explainer = build(offer.spec, parameters or {})
    if not isinstance(explainer, SelfExplaining):
        raise ConfigurationError(f"{name!r} is no classifier of its own; it explains another one, with `--classifier`.")
    _check_not_empty(name, train)
    settings = {
        **_settings(offer, explainer, parameters or {}, train, validation, seed),
        "classifier": None,
        "labels": list(train.labels),
        "rate": train.rate,
    }
    keep = _Keep(folder, settings)
    if (state := keep.finished()) is not None:
        return explainer.restore(state, train.labels)
    started = time.monotonic()
    explainer.train(
        train,
        validation=validation,
        random=seed,
        device=usable_device(device),
        workspace=keep.workspace,
        progress=progress,
    )
    keep.write(explainer.state(), explainer, time.monotonic() - started)
    return explainer


class _Keep:
    """A folder and the settings of the fit that it is for."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        self.settings: dict[str, Any] = json.loads(canonical_json(settings))  # as they will be read again
        self.workspace = Workspace(folder, digest_of(_by_content(self.settings)))

    def finished(self) -> dict[str, Tensor] | None:
        """What a finished fit of these settings left, if there is one; CheckpointError if it is of others."""
        if not (self.folder / _DOCUMENT).exists():
            return None
        stored = _read_document(self.folder)
        found = _by_content(stored)
        differing = [key for key, value in _by_content(self.settings).items() if found.get(key) != value]
        if differing:
            raise CheckpointError(
                f"{self.folder} holds another fit ({stored['explainer']}): other {', '.join(differing)}. "
                "Choose another --out."
            )
        self.workspace.clear()
        return _read_state(self.folder, stored)

    def write(self, state: Mapping[str, Tensor], explainer: object, seconds: float) -> None:
        """Keep what was fitted, and what it took; its checkpoint is not needed any more."""
        save_tensors(self.folder / _TENSORS, state)
        facts = {
            "seconds": round(seconds, 1),
            "n_parameters": getattr(explainer, "n_parameters", None),
            "notes": list(getattr(explainer, "notes", ())),
        }
        document = {**self.settings, "fit": facts, "tensors_sha256": _sha256(self.folder / _TENSORS)}
        write_json(self.folder / _DOCUMENT, {**document, "settings_sha256": _digest_of_settings(document)})
        self.workspace.clear()


def resolved_settings(offer: Offer[ExplainerSpec], explainer: object, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """All that decides what an explainer learns, but for data and seed, as plain values.

    A folder that a parameter names counts by its contents, wherever it lies.
    """
    return _by_content(_named_settings(offer, explainer, parameters))


def _named_settings(offer: Offer[ExplainerSpec], explainer: object, parameters: Mapping[str, Any]) -> dict[str, Any]:
    own = {name: getattr(explainer, name, None) for name in ("settings", "contents")}
    return {
        "explainer": offer.qualified_name,
        "parameters": resolved_parameters(offer.spec, parameters),
        **{name: value for name, value in own.items() if value is not None},
    }


def _by_content(settings: Mapping[str, Any]) -> dict[str, Any]:
    contents = settings.get("contents", {})
    parameters = {name: value for name, value in settings["parameters"].items() if name not in contents}
    return {**settings, "parameters": parameters}


def _settings(
    offer: Offer[ExplainerSpec],
    explainer: object,
    parameters: Mapping[str, Any],
    train: Dataset,
    validation: Dataset | None,
    seed: int,
) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        **_named_settings(offer, explainer, parameters),
        "version": offer.origin.version,
        "train": digest_of_data(train),
        "validation": None if validation is None else digest_of_data(validation),
        "seed": seed,
    }


def _check_not_empty(name: str, train: Dataset) -> None:
    if not len(train):
        raise ConfigurationError(f"{name!r} cannot be fitted: the training data have no clips.")


def replace_tensors(folder: Path, state: Mapping[str, Tensor]) -> None:
    """Put other tensors into the folder of a finished fit: those of an explainer that was edited since.

    What the folder says of the fit itself stays as it is.

    Raises
    ------
    CheckpointError
        The folder is missing, half-written or damaged.
    """
    stored = _read_document(folder)
    save_tensors(folder / _TENSORS, state)
    document = {**stored, "tensors_sha256": _sha256(folder / _TENSORS)}
    write_json(folder / _DOCUMENT, {**document, "settings_sha256": _digest_of_settings(document)})


def load_fitted(registry: Registry, folder: Path, classifier: AudioClassifier) -> Fittable:
    """Load a fitted explainer.

    Parameters
    ----------
    registry : Registry
    folder : Path
        As :func:`fit` left it.
    classifier : AudioClassifier
        The one that it was fitted to.

    Returns
    -------
    Fittable

    Raises
    ------
    CheckpointError
        The folder is missing, half-written or damaged, or was fitted to another classifier.
    """
    stored = _read_document(folder)
    fitted_to = stored["classifier"]
    if fitted_to is None:
        raise CheckpointError(
            f"{folder} holds {stored['explainer']}, a classifier that explains itself and no other, such as "
            f"{classifier.name}. Leave the classifier out: earwitness explain FILE --explainer … --checkpoint …"
        )
    if fitted_to["checksum"] != classifier.checksum:
        raise CheckpointError(
            f"{folder} was fitted to {fitted_to['name']} ({fitted_to['checksum'][:12]}…), which is not the "
            f"{classifier.name} in use ({classifier.checksum[:12]}…). Use it with {fitted_to['name']} (--classifier, "
            "with its weights), or fit to this one: earwitness fit."
        )
    explainer = build(registry.explainer(stored["explainer"]).spec, stored["parameters"])
    if not isinstance(explainer, Fittable):
        raise CheckpointError(f"{folder} names {stored['explainer']!r}, which has nothing to load.")
    return explainer.load_state(_read_state(folder, stored))


def load_trained(registry: Registry, folder: Path) -> SelfExplaining:
    """Load a classifier that explains itself.

    Parameters
    ----------
    registry : Registry
    folder : Path
        As :func:`train` left it.

    Returns
    -------
    SelfExplaining

    Raises
    ------
    CheckpointError
        The folder is missing, half-written or damaged, or holds an explainer of other classifiers.
    """
    stored = _read_document(folder)
    explainer = build(registry.explainer(stored["explainer"]).spec, stored["parameters"])
    if not isinstance(explainer, SelfExplaining):
        raise CheckpointError(f"{folder} holds a fitted {stored['explainer']}, which is no classifier.")
    return explainer.restore(_read_state(folder, stored), stored["labels"])


def fitted_identity(folder: Path) -> dict[str, Any]:
    """Qualified name, parameters and checksum of a fitted explainer, for cache keys and reports.

    ``contents``, where there are any, stand in the place of the parameters that name them; see
    :class:`earwitness.protocols.Fittable`.

    Raises
    ------
    CheckpointError
        The folder is missing, half-written or damaged.
    """
    stored = _by_content(_read_document(folder))
    return {key: stored[key] for key in ("explainer", "parameters", "contents", "tensors_sha256") if key in stored}


def fit_facts(folder: Path) -> dict[str, Any]:
    """What a fit took: ``seconds``, of the session that finished it, and ``n_parameters``, None where nobody says; and
    what its user should know, ``notes``.

    Raises
    ------
    CheckpointError
        The folder is missing, half-written or damaged.
    """
    return {"seconds": None, "n_parameters": None, "notes": [], **_read_document(folder).get("fit", {})}


def unfinished_fit(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and plain values of the last checkpoint of a fit that has not finished, of whatever settings; else None.

    Raises
    ------
    CheckpointError
        The checkpoint is damaged.
    """
    path = folder / _CHECKPOINT
    return load_tensors(path) if path.exists() and not (folder / _DOCUMENT).exists() else None


def _read_document(folder: Path) -> dict[str, Any]:
    path = folder / _DOCUMENT
    try:
        stored: dict[str, Any] = json.loads(path.read_text())
        if stored["schema"] != SCHEMA:
            raise CheckpointError(f"{path} has schema {stored['schema']}, this version reads schema {SCHEMA}.")
        if stored["settings_sha256"] != _digest_of_settings(stored):
            raise ValueError("its checksum does not match")
    except NotADirectoryError:
        raise CheckpointError(f"{folder} is a file. A fit leaves a folder: give that one.") from None
    except FileNotFoundError:
        unfinished = (folder / _CHECKPOINT).exists()
        hint = "The fit did not finish: run `earwitness fit` again, it resumes." if unfinished else "Fit it first."
        raise CheckpointError(f"{folder} holds no fitted explainer ({_DOCUMENT} is missing). {hint}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}. Fit again.") from error
    return stored


def _read_state(folder: Path, stored: Mapping[str, Any]) -> dict[str, Tensor]:
    if not (folder / _TENSORS).is_file() or _sha256(folder / _TENSORS) != stored.get("tensors_sha256"):
        raise CheckpointError(f"{folder / _TENSORS} is missing or damaged: its checksum does not match. Fit again.")
    return load_tensors(folder / _TENSORS)[0]


def digest_of_data(dataset: Dataset) -> str:
    """Changes with the samples, the labels and the order of the clips."""
    return digest_of([[entry.clip_id, entry.labels, entry.fingerprint] for entry in dataset.entries])


def _digest_of_settings(document: Mapping[str, Any]) -> str:
    return digest_of({key: value for key, value in document.items() if key != "settings_sha256"})


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
