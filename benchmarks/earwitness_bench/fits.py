"""Fits what a suite says must be fitted: once for each arena's classifier, and found again by all its settings."""

from __future__ import annotations

import functools
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from earwitness.artifacts import digest_of
from earwitness.clips import Dataset
from earwitness.errors import CheckpointError, ConfigurationError, PluginError, StoreError
from earwitness.fitting import fit, fitted_identity
from earwitness.loading import load_dataset
from earwitness.parameters import resolved_parameters
from earwitness.protocols import Progress
from earwitness.registry import Registry
from earwitness_bench.identity import plugin_identity
from earwitness_bench.isolation import isolated
from earwitness_bench.monitor import Observer, Passing
from earwitness_bench.plan import Stage, explainer_parameters
from earwitness_bench.store import Store
from earwitness_bench.suite import ExplainerEntry, Fit, Reference, Suite

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
    fitted: dict[str, Path | str] = {}
    for entry in suite.explainers:
        if entry.checkpoint:
            fitted_identity(Path(entry.checkpoint))  # it is looked at here, and not when the first clip is explained
            fitted[entry.title] = Path(entry.checkpoint)
        if entry.fit is None:
            continue
        offer = registry.explainer(entry.name)
        parameters = explainer_parameters(suite, entry, offer.spec)
        data = _Data.of(entry.fit, registry)
        seed = suite.seed if entry.fit.seed is None else entry.fit.seed
        identity = {
            "environment": env,
            "explainer": [offer.qualified_name, plugin_identity(offer)],  # type: ignore[arg-type]
            "parameters": resolved_parameters(offer.spec, parameters),
            "classifier": stage.classifier.checksum,
            **data.identity(),
            "seed": seed,
        }
        folder = store.folder / "fits" / f"{offer.spec.name}-{digest_of(identity)[:16]}"
        if observer is None:
            fitted[entry.title] = _found(folder) or NOT_FITTED
            continue
        report = functools.partial(_fitting, observer, entry.title)
        try:
            completed = entry.model_copy(update={"parameters": parameters})
            with store.alone(folder.name):
                _fit_or_load(registry, completed, stage, data, folder, seed, report)
        except (ConfigurationError, PluginError, StoreError):
            raise
        except (Exception, SystemExit) as error:
            fitted[entry.title] = f"{type(error).__name__}: {error}"
        else:
            fitted[entry.title] = folder
    return fitted


@dataclass(frozen=True, eq=False)
class _Data:
    """What a fit is given."""

    train: Dataset
    validation: Dataset | None

    @classmethod
    def of(cls, named: Fit, registry: Registry) -> _Data:
        def load(reference: Reference) -> Dataset:
            return load_dataset(reference.name, parameters=reference.parameters, plugins=registry)

        return cls(load(named), None if named.validation is None else load(named.validation))

    def identity(self) -> dict[str, Any]:
        sets = {"train": self.train, "validation": self.validation}
        return {
            name: [[clip.clip_id, clip.labels, clip.fingerprint] for clip in data.entries]
            for name, data in sets.items()
            if data is not None
        }


def _found(folder: Path) -> Path | None:
    try:
        fitted_identity(folder)
    except CheckpointError:
        return None
    return folder


def _fit_or_load(
    registry: Registry, entry: ExplainerEntry, stage: Stage, data: _Data, folder: Path, seed: int, report: Progress
) -> None:
    """Fit into a folder that is named after all the settings: what does not load from it is damaged."""
    for attempt in range(2):
        try:
            with isolated(seed, stage.classifier.device):
                fit(
                    registry,
                    entry.name,
                    stage.classifier.to(stage.classifier.device),
                    data.train,
                    folder,
                    validation=data.validation,
                    parameters=entry.parameters,
                    seed=seed,
                    progress=report,
                )
            return
        except CheckpointError:
            if attempt:
                raise
            set_aside = folder.with_name(f"{folder.name}.corrupt")
            shutil.rmtree(set_aside, ignore_errors=True)
            folder.replace(set_aside)


def _fitting(observer: Observer, title: str, done: int, total: int, text: str) -> None:
    observer(Passing(f"fitting {title}: {text}, {done} of {total}"))
