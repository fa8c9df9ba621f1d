"""Fits what a suite says must be fitted, once for each arena's classifier, and trains the classifiers that must be.

Both are found again by all their settings.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from earwitness.artifacts import digest_of
from earwitness.clips import Dataset
from earwitness.errors import CheckpointError, ConfigurationError, PluginError, StoreError
from earwitness.fitting import fit, fitted_identity, load_fitted, resolved_settings, train
from earwitness.loading import load_dataset
from earwitness.parameters import build
from earwitness.protocols import Progress
from earwitness.registry import Offer, Registry
from earwitness.specs import ExplainerSpec
from earwitness_bench.contestants import explainer_parameters
from earwitness_bench.identity import plugin_identity
from earwitness_bench.isolation import isolated
from earwitness_bench.monitor import Observer, Passing
from earwitness_bench.stages import Stage
from earwitness_bench.store import Store
from earwitness_bench.suite import Arena, ExplainerEntry, Fit, Reference, Suite

NOT_FITTED = "it has not been fitted yet"


def fit_all(
    suite: Suite,
    stage: Stage,
    store: Store,
    registry: Registry,
    env: dict[str, Any],
    *,
    observer: Observer | None = None,
) -> dict[str, Path | str]:
    """Fit the explainers that must be fitted, for one arena; what was fitted before is found.

    Parameters
    ----------
    suite : Suite
    stage : Stage
    store : Store
        Fits lie in its folder, one for each combination of settings.
    registry : Registry
    env : dict
        See :func:`earwitness_bench.identity.environment`.
    observer : Observer, optional
        Is told how a fit goes. Without one nothing is fitted, only found.

    Returns
    -------
    dict of str to Path or str
        By title: the folder of the fit; or why it failed, :data:`NOT_FITTED` where nothing was found.
    """
    for entry in suite.explainers:
        if entry.fit is not None:  # what is wrong with one of them is said before the first is fitted
            _check_parameters(suite, entry, entry.fit.start, registry)
    fitted: dict[str, Path | str] = {}
    for entry in suite.explainers:
        if entry.checkpoint:
            fitted_identity(Path(entry.checkpoint))  # it is looked at here, and not when the first clip is explained
            fitted[entry.title] = Path(entry.checkpoint)
        if entry.fit is None:
            continue
        parameters = explainer_parameters(suite, entry, registry.explainer(entry.name).spec)
        if entry.fit.start:
            earlier = fitted[entry.fit.start]
            if isinstance(earlier, str):
                said = f"the fit from which it starts is missing: {earlier}"
                fitted[entry.title] = earlier if earlier == NOT_FITTED else said
                continue
            parameters["start"] = str(earlier)
        wanted = _Wanted.of(entry.name, parameters, entry.fit, suite, registry)
        folder = wanted.folder(store, env, classifier=stage.classifier.checksum)
        if observer is None:
            fitted[entry.title] = _found(folder) or NOT_FITTED
            continue
        classifier = stage.classifier.to(stage.classifier.device)
        report = functools.partial(_passing, observer, f"fitting {entry.title}")
        try:
            with store.alone(folder.name):
                if entry.fit.start and _found(folder) is None:
                    load_fitted(registry, Path(parameters["start"]), classifier)  # its damage is not ours
                work = functools.partial(fit, registry, entry.name, classifier, **wanted.call(folder, report))
                _again_if_damaged(work, folder, wanted.seed, classifier.device)
        except (ConfigurationError, PluginError, StoreError):
            raise
        except (Exception, SystemExit) as error:
            fitted[entry.title] = f"{type(error).__name__}: {error}"
        else:
            fitted[entry.title] = folder
    return fitted


def trained_network(
    suite: Suite,
    arena: Arena,
    store: Store,
    registry: Registry,
    env: dict[str, Any],
    *,
    device: torch.device | str,
    observer: Observer | None = None,
) -> Path:
    """The folder of an arena's own classifier; trained, unless it was before.

    Parameters
    ----------
    suite, store, registry, env, observer
        See :func:`fit_all`.
    arena : Arena
        With ``train``.
    device : torch.device or str
        To train on.

    Raises
    ------
    ConfigurationError
        It has not been trained, and without an observer it is not going to be.
    """
    assert arena.train is not None
    wanted = _Wanted.of(arena.classifier.name, arena.classifier.parameters, arena.train, suite, registry)
    folder = wanted.folder(store, env)
    if observer is None:
        if (found := _found(folder)) is None:
            raise ConfigurationError(
                f"{arena.title}: its classifier has not been trained yet, so nobody knows what there is to do. Run the "
                "suite, which trains it first."
            )
        return found
    report = functools.partial(_passing, observer, f"training {arena.classifier.short_name}")
    with store.alone(folder.name):
        work = functools.partial(train, registry, arena.classifier.name, device=device, **wanted.call(folder, report))
        _again_if_damaged(work, folder, wanted.seed, torch.device(device))
    return folder


@dataclass(frozen=True, eq=False)
class _Wanted:
    """A fit, or a training, with its data at hand."""

    offer: Offer[ExplainerSpec]
    parameters: dict[str, Any]
    train: Dataset
    validation: Dataset | None
    seed: int

    @classmethod
    def of(cls, name: str, parameters: Mapping[str, Any], named: Fit, suite: Suite, registry: Registry) -> _Wanted:
        def load(reference: Reference) -> Dataset:
            return load_dataset(reference.name, parameters=reference.parameters, plugins=registry)

        return cls(
            registry.explainer(name),
            dict(parameters),
            load(named),
            None if named.validation is None else load(named.validation),
            suite.seed if named.seed is None else named.seed,
        )

    def folder(self, store: Store, env: dict[str, Any], **more: str) -> Path:
        """Where it lies: a name of its own for each combination of settings."""
        sets = {"train": self.train, "validation": self.validation}
        identity = {
            "environment": env,
            "plugin": plugin_identity(self.offer),
            **resolved_settings(self.offer, build(self.offer.spec, self.parameters), self.parameters),
            **more,
            **{
                name: [[clip.clip_id, clip.labels, clip.fingerprint] for clip in data.entries]
                for name, data in sets.items()
                if data is not None
            },
            "seed": self.seed,
        }
        return store.folder / "fits" / f"{self.offer.spec.name}-{digest_of(identity)[:16]}"

    def call(self, folder: Path, report: Progress) -> dict[str, Any]:
        """What :func:`earwitness.fitting.fit` and :func:`earwitness.fitting.train` are both given."""
        return {
            "train": self.train,
            "folder": folder,
            "validation": self.validation,
            "parameters": self.parameters,
            "seed": self.seed,
            "progress": report,
        }


def _check_parameters(suite: Suite, entry: ExplainerEntry, start: str, registry: Registry) -> None:
    spec = registry.explainer(entry.name).spec
    build(spec, explainer_parameters(suite, entry, spec) | ({"start": start} if start else {}))


def _found(folder: Path) -> Path | None:
    try:
        fitted_identity(folder)
    except CheckpointError:
        return None
    return folder


def _again_if_damaged(work: Callable[[], object], folder: Path, seed: int, device: torch.device) -> None:
    """Work into a folder that is named after all the settings: what does not load from it is damaged."""
    for attempt in range(2):
        try:
            with isolated(seed, device):
                work()
            return
        except CheckpointError:
            if attempt or not folder.exists():
                raise
            set_aside = folder.with_name(f"{folder.name}.corrupt")
            shutil.rmtree(set_aside, ignore_errors=True)
            folder.replace(set_aside)


def _passing(observer: Observer, what: str, done: int, total: int, text: str) -> None:
    observer(Passing(f"{what}: {text}, {done} of {total}"))
